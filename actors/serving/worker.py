"""The worker actor: hears plans, runs them in order, publishes results. It owns the device and nothing else.

The model runs in a thread of its own, to which plans go as they are heard, so that none waits for what is said of the
one before it; grammars are compiled in another, so that no step waits for them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal

import msgspec

from actors.serving.device import Device
from bus import subjects
from bus.connection import Connection, Message
from bus.errors import BusError, Refused
from engine.runner.executor import Ask, Follower, Ignore, Run, follow
from engine.runner.model_runner import ModelRunner
from schemas import codec
from schemas.generation import Announce
from schemas.steps import Prepare, Prepared, Resync, StepPlan, StepResult, WorkerBegan

log = logging.getLogger(__name__)

_TOO_MUCH: Final = "what it wants to be told of tokens is too much for one message: lower logprobs or logprob_token_ids"

Reason = Literal["started", "gap", "epoch"]

_RETRY_S = 0.2
_SAID_AGAIN_S: Final = 3600.0
"""How often it says what it computes with: step records expire by the day."""
_PATIENCE_S = 1.0
"""How long a full plan may be on its way before it is asked for again, seconds."""


class WorkerActor:
    """Runs one engine's plans on one device."""

    def __init__(
        self, connection: Connection, engine: str, runner: ModelRunner, worker: str, began: WorkerBegan | None = None
    ) -> None:
        """Make it; `began` is what it says of itself for the record."""
        self._began = began
        self._connection = connection
        self._engine = engine
        self._runner = runner
        self._worker = worker
        self._device = Device(runner)
        self._follower = Follower()
        self._asked_at = float("-inf")
        self._wanted: Reason | None = None
        """Why a full plan is wanted; None when none is."""
        self._lacking = asyncio.Event()
        """Set as long as one is."""
        self._steps = 0
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammars")
        self._compiling = set[asyncio.Task[None]]()

    def statistics(self) -> dict[str, int]:
        """Say how many plans wait, how many were run, and how many blocks there are."""
        return {"plans": self._device.under_way, "steps": self._steps, "blocks": self._runner.blocks}

    async def run(self) -> None:
        """Work until cancelled."""
        try:  # a plan that is heard starts the device's thread, which would outlive a failure here
            await self._connection.subscribe(subjects.plan(self._engine), self._hear)
            await self._connection.subscribe(subjects.announcements(self._engine), self._heed)
            self._connection.on_reconnect(self._catch_up)
            await self._connection.flush()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._tell())
                both.create_task(self._insist())
                both.create_task(self._say())
                await self._ask("started")
        finally:
            self._device.stop()

    async def _tell(self) -> None:
        """Send results as they come."""
        while True:
            result = await self._device.result()
            self._steps += 1
            for request, problem in result.errors:
                log.error("step %s, request %s: %s", result.n, request, problem)
            await self._publish(result)

    async def _say(self) -> None:
        """Say what it computes with, for whoever is to compute it again."""
        while self._began is not None:
            try:
                await self._connection.publish(subjects.worker(self._engine), codec.encode(self._began))
            except BusError as error:
                log.warning("the bus takes nothing: %s", error)
                await asyncio.sleep(_RETRY_S)
                continue
            await asyncio.sleep(_SAID_AGAIN_S)

    async def _insist(self) -> None:
        """While a full plan is wanted and none comes, ask again."""
        while True:
            await self._lacking.wait()
            await asyncio.sleep(_PATIENCE_S)
            if self._wanted is not None:
                await self._ask(self._wanted)

    def _want(self, reason: Reason | None) -> None:
        self._wanted = reason
        (self._lacking.clear if reason is None else self._lacking.set)()

    async def _hear(self, message: Message) -> None:
        plan: StepPlan = codec.decode(message.data, StepPlan)
        self._follower, verdict = follow(self._follower, plan)
        match verdict:
            case Run():
                if plan.full:
                    self._want(None)
                self._device.run(plan)
                for prepare in plan.prepare:
                    task = asyncio.create_task(self._prepare(plan.epoch, prepare))
                    self._compiling.add(task)
                    task.add_done_callback(self._compiling.discard)
            case Ask(reason=reason):
                self._want(reason)
                await self._ask(reason)
            case Ignore(why=why):
                log.debug("step %s of %s ignored: %s", plan.n, plan.epoch, why)

    async def _heed(self, message: Message) -> None:
        """A scheduler has started, or wonders where the result of a plan is."""
        announce: Announce = codec.decode(message.data, Announce)
        if not announce.ready or announce.epoch != self._follower.epoch:
            await self._ask("epoch")
        elif (announce.in_flight and not self._device.under_way) or (announce.parked and not self._compiling):
            await self._ask("gap")

    async def _catch_up(self) -> None:
        """Plans or results may have been lost with the connection."""
        self._asked_at = float("-inf")
        await self._ask("gap")

    async def _prepare(self, epoch: str, prepare: Prepare) -> None:
        """Compile a grammar, and say what became of it; if that is lost, the scheduler asks again."""
        problem = await asyncio.get_running_loop().run_in_executor(self._compiler, self._runner.prepare, prepare)
        prepared = Prepared(epoch, self._worker, prepare.key, problem)
        try:
            await self._connection.publish(subjects.prepared(self._engine), codec.encode(prepared))
        except BusError as error:
            log.warning("grammar %s: the bus takes nothing: %s", prepare.key, error)

    async def _publish(self, result: StepResult) -> None:
        """Send a result. Should it be too large for a message, those fail that want much told: never the worker."""
        subject = subjects.result(self._engine)
        try:
            await self._connection.publish(subject, codec.encode(result))
        except Refused as error:
            if not error.too_large:
                raise
            names = {one[0] for one in result.logprobs} | {one[0] for one in result.prompt_logprobs}
            log.exception("step %s is too large", result.n)
            smaller = msgspec.structs.replace(
                result,
                tokens=tuple(pair for pair in result.tokens if pair[0] not in names),
                errors=(*result.errors, *((name, _TOO_MUCH) for name in sorted(names))),
                logprobs=(),
                prompt_logprobs=(),
                refused=(*result.refused, *sorted(names)),
            )
            await self._connection.publish(subject, codec.encode(smaller))

    async def _ask(self, reason: Reason) -> None:
        """Ask for a full plan until a scheduler has heard it; not again while one is on its way."""
        if time.monotonic() - self._asked_at < _PATIENCE_S:
            return
        self._asked_at = time.monotonic()
        while True:
            expected = self._follower.expected
            resync = Resync(worker=self._worker, expected=expected, reason=reason, blocks=self._runner.blocks)
            try:
                await self._connection.request(subjects.resync(self._engine), codec.encode(resync), 1.0)
            except (BusError, TimeoutError) as error:
                log.debug("no scheduler yet: %s", error)
                await asyncio.sleep(_RETRY_S)
                continue
            return
