"""The scheduler actor: takes generations from frontends, publishes step plans, applies results, sends tokens back.

All state is the `Scheduler`'s, a pure machine; this actor only moves messages. Nothing is acknowledged between two
steps: a plan is one publish that every worker hears and the trace keeps. A lost message shows as a missing number,
and whoever notices asks for a full plan.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgspec

from actors.serving.metering import Meter
from bus import subjects
from bus.connection import Connection, Message
from bus.errors import BusError
from engine.config import MOST_NUMBERS
from engine.core.scheduler import Scheduler
from schemas import codec
from schemas.context import Clock, traced
from schemas.errors import BadShape
from schemas.generation import (
    Abort,
    Accepted,
    Announce,
    Answer,
    Attach,
    Forgotten,
    Output,
    Outputs,
    Refused,
    Submit,
)
from schemas.programs import ProgramNote
from schemas.steps import Prepared, RequestEvent, Resync, Stalled, StepResult

log = logging.getLogger(__name__)

_QUIET_S = 2.0
_AGAIN_MS = 1000


class Stalls:
    """Notices when there is work and none of it comes to an end."""

    def __init__(
        self, after_s: float, clock: Callable[[], float] = time.monotonic, missed: str = "no step has ended"
    ) -> None:
        self.after_s = after_s
        self.missed = missed
        """What does not happen."""
        self.chain = ""
        """What nothing moves for; empty while something does."""
        self._clock = clock
        self._results = 0
        self._moved = clock()

    def look(self, results: int, *, busy: bool) -> float | None:
        """Say for how many seconds nothing moved, when that has become too long, and when it is over; else None.

        Args:
            results: of work, so far.
            busy: whether there is work.
        """
        quiet_s = self._clock() - self._moved
        if results != self._results or not busy:
            self._results, self._moved = results, self._clock()
            return quiet_s if self.chain else None
        return quiet_s if quiet_s >= self.after_s and not self.chain else None


class SchedulerActor:
    """Serves one engine."""

    def __init__(
        self,
        connection: Connection,
        scheduler: Scheduler,
        announce: Announce,
        clock: Clock,
        stall_s: float = 30.0,
    ) -> None:
        """Make it; after `stall_s` without the end of a step, while there is work, it says that nothing moves."""
        self._connection = connection
        self._scheduler = scheduler
        self._announce = announce
        self._clock = clock
        self._engine = announce.engine
        self._frontends: dict[str, str] = {}
        self._planning = asyncio.Lock()
        self._sooner = asyncio.Event()
        """A request came that may have to end before all others."""
        self._results = 0
        self._draining = False
        """Whether nothing new is begun, as the stack is about to stop."""
        self._grammars = 0
        """Answers of workers about grammars."""
        self._stalls = Stalls(stall_s)
        self._grammars_stall = Stalls(stall_s, missed="no grammar was compiled")
        """Steps may go on meanwhile."""
        self._meter = Meter(announce.epoch, announce.context_length)

    def statistics(self) -> dict[str, Any]:
        """Say how the scheduler does, and how its requests did."""
        numbers = msgspec.structs.asdict(self._scheduler.statistics())
        told = {"requests": self._meter.numbers(), "adapters": self._meter.adapters(), "time": self._clock.now()}
        return {**numbers, "engine": self._engine, **told}

    def trouble(self) -> str:
        """Say why nothing moves; empty while it does."""
        return self._stalls.chain or self._grammars_stall.chain

    async def run(self) -> None:
        """Serve until cancelled."""
        engine, connection = self._engine, self._connection
        await connection.subscribe(subjects.submit(engine), self._submit)
        await connection.subscribe(subjects.attach(engine), self._attach)
        await connection.subscribe(subjects.abort(engine), self._abort)
        await connection.subscribe(subjects.forget(engine), self._forget)
        await connection.subscribe(subjects.note(engine), self._note)
        await connection.subscribe(subjects.describe(engine), self._describe)
        await connection.subscribe(subjects.drain(engine), self._drain)
        await connection.subscribe(subjects.result(engine), self._result)
        await connection.subscribe(subjects.resync(engine), self._resync)
        await connection.subscribe(subjects.prepared(engine), self._prepared)
        # results and requests may have been lost with the connection: everyone says again where he stands
        connection.on_reconnect(self._say_up)
        await self._say_up()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._watch())
            both.create_task(self._end_late_ones())

    async def _end_late_ones(self) -> None:
        """End requests at their deadlines, whether or not any step comes to an end."""
        while True:
            self._sooner.clear()
            due = self._scheduler.deadlines.next
            late_s = _QUIET_S if due is None else min(max(0, min(due - self._clock.now(), 60_000_000)) / 1e6, _QUIET_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(late_s):
                    await self._sooner.wait()
            if due is not None:
                await self._though_away(self._plan())

    async def _though_away(self, sending: Awaitable[None]) -> None:
        """Send what may be lost; a bus that takes nothing is no reason to lose what the scheduler knows."""
        try:
            await sending
        except BusError as error:
            log.warning("the bus takes nothing: %s", error)
            await asyncio.sleep(_QUIET_S)

    async def _watch(self) -> None:
        """When no result comes for a while, say that some are due: a worker that has none to give asks for plans. The
        same with grammars. When nothing moves for long, say why.
        """
        before = grammars = -1
        while True:
            await asyncio.sleep(min(_QUIET_S, self._stalls.after_s / 2))
            now = self._scheduler.statistics()
            if (now.in_flight and self._results == before) or (now.parked and self._grammars == grammars):
                await self._though_away(self._say_up())
            before, grammars = self._results, self._grammars
            busy = bool(now.running or now.waiting)
            for stalls, results, work in (
                (self._stalls, self._results, busy),
                (self._grammars_stall, self._grammars, bool(now.parked)),
            ):
                if (quiet_s := stalls.look(results, busy=work)) is not None:
                    await self._though_away(self._tell_stall(stalls, quiet_s))

    async def _tell_stall(self, stalls: Stalls, quiet_s: float) -> None:
        waits = self._scheduler.waits()
        over, missed = bool(stalls.chain), f"{stalls.missed} for {quiet_s:.0f} s"
        # names are of tenants: they are for the log and the record, not for whoever asks how it does
        stalls.chain = "" if over else f"{missed}: {waits.chain(names=False)}"
        if over:
            log.warning("the engine moves again after %.0f s", quiet_s)
        else:
            log.error("%s: %s", missed, waits.chain())
        stalled = Stalled(
            epoch=self._announce.epoch,
            n=self._scheduler.statistics().steps,
            time=self._clock.now(),
            quiet_ms=int(quiet_s * 1000),
            over=over,
            chain=waits.chain(),
            reasons=waits.reasons,
        )
        await self._connection.publish(subjects.stall(self._engine), codec.encode(stalled))

    async def _say_up(self) -> None:
        now = self._scheduler.statistics()
        self._announce = msgspec.structs.replace(self._announce, in_flight=now.in_flight, parked=now.parked)
        await self._connection.publish(subjects.announcements(self._engine), codec.encode(self._announce))

    async def _describe(self, message: Message) -> None:
        await self._connection.publish(message.reply, codec.encode(self._announce))

    async def _forget(self, message: Message) -> None:
        blocks = self._scheduler.forget_prefixes()
        if message.reply:
            await self._connection.publish(message.reply, codec.encode(Forgotten(blocks)))

    async def _submit(self, message: Message) -> None:
        try:
            submit: Submit = codec.decode(message.data, Submit)
        except BadShape as error:
            await self._answer(message, Refused(request="", reason="invalid", message=str(error)))
            return
        answer = self._refusal_while_draining(submit) or self._scheduler.submit(submit, self._clock.now())
        if isinstance(answer, Accepted):
            self._frontends[submit.request] = submit.frontend
            self._meter.submitted(submit, self._clock.now())
        await self._answer(message, answer)
        if isinstance(answer, Accepted):
            # a request known before has tokens already; its new frontend counts from those it submitted
            await self._send_from(submit.request, len(submit.output))
            if submit.deadline:
                self._sooner.set()
            await self._plan()

    async def _note(self, message: Message) -> None:
        note: ProgramNote = codec.decode(message.data, ProgramNote)
        self._scheduler.note(note, self._clock.now())
        await self._plan()

    async def _drain(self, message: Message) -> None:
        log.info("told to stop soon: nothing new is begun")
        self._draining = True

    def _refusal_while_draining(self, submit: Submit) -> Refused | None:
        """Turn newcomers away once the stack is about to stop; what was begun, here or before, goes on."""
        if not self._draining or submit.output or self._scheduler.attach(submit.request, 0) is not None:
            return None
        message = "the server is about to stop: try again later"
        return Refused(request=submit.request, reason="draining", message=message, retry_after_ms=_AGAIN_MS)

    async def _attach(self, message: Message) -> None:
        attach: Attach = codec.decode(message.data, Attach)
        known = self._scheduler.attach(attach.request, attach.start) is not None
        if not known:
            text = f"no generation {attach.request!r} here: submit it again"
            await self._answer(message, Refused(request=attach.request, reason="unknown", message=text))
            return
        self._frontends[attach.request] = attach.frontend
        await self._answer(message, Accepted(request=attach.request))
        await self._send_from(attach.request, attach.start)

    async def _send_from(self, request: str, start: int) -> None:
        event = self._scheduler.attach(request, start)
        if event is not None and (event.tokens or event.finish is not None):
            await self._send([event])

    async def _abort(self, message: Message) -> None:
        abort: Abort = codec.decode(message.data, Abort)
        ended = self._scheduler.abort(abort.request)
        self._frontends.pop(abort.request, None)
        if ended is not None:
            await self._tell([ended])
        await self._plan()

    async def _result(self, message: Message) -> None:
        result: StepResult = codec.decode(message.data, StepResult)
        if result.epoch != self._announce.epoch:
            return
        self._results += 1
        events = self._scheduler.apply(result)
        await self._plan()
        await self._tell(events, result.n)

    async def _prepared(self, message: Message) -> None:
        prepared: Prepared = codec.decode(message.data, Prepared)
        self._grammars += 1
        ended = self._scheduler.prepared(prepared)
        await self._plan()
        await self._tell(ended)

    async def _resync(self, message: Message) -> None:
        resync: Resync = codec.decode(message.data, Resync)
        log.info("worker %s asks for a full plan (%s, step %s)", resync.worker, resync.reason, resync.expected)
        ended = self._scheduler.resync(resync)
        if message.reply:
            await self._connection.publish(message.reply, b"{}")
        if not self._announce.ready:
            self._announce = msgspec.structs.replace(self._announce, ready=True)
            await self._say_up()
        await self._plan()
        await self._tell(ended)

    async def _plan(self) -> None:
        """End what is late, and publish plans until the scheduler has nothing more to plan."""
        async with self._planning:
            await self._tell(self._scheduler.expire(self._clock.now()))
            await self._tell_more()
            while (plan := self._scheduler.plan(self._clock.now())) is not None:
                await self._connection.publish(subjects.plan(self._engine), codec.encode(plan))
                self._meter.planned(plan)
            await self._tell_more()

    async def _tell_more(self) -> None:
        more = self._scheduler.told_more()
        if more is not None:
            await self._connection.publish(subjects.told(self._engine), codec.encode(more))

    async def _tell(self, events: list[RequestEvent], n: int = 0) -> None:
        """Send what happened, in step `n` or without any; what is over is told to the record too."""
        await self._send(events)
        for served in self._meter.applied(n, events, self._clock.now()) if events else ():
            if served.finish in {"error", "timeout"}:
                with traced(served.traceparent):
                    log.warning("request %s ended with %r", served.request, served.finish)
            await self._connection.publish(subjects.served(self._engine), codec.encode(served))

    async def _send(self, events: list[RequestEvent]) -> None:
        by_frontend: dict[str, list[Output]] = defaultdict(list)
        for event in events:
            frontend = self._frontends.get(event.request)
            if frontend is not None:
                by_frontend[frontend].append(_output(event))
            if event.finish is not None:
                self._frontends.pop(event.request, None)
        for frontend, outputs in by_frontend.items():
            for some in _parted(outputs):
                message = Outputs(self._announce.epoch, some)
                await self._connection.publish(subjects.outputs(self._engine, frontend), codec.encode(message))

    async def _answer(self, message: Message, answer: Answer) -> None:
        if message.reply:
            await self._connection.publish(message.reply, codec.encode(answer))


def _parted(outputs: Sequence[Output]) -> Iterator[tuple[Output, ...]]:
    """Part outputs so that each part fits a message, however many logarithms they bring."""
    some, told = list[Output](), 0
    for output in outputs:
        more = sum(len(one.tokens) for one in (*output.logprobs, *output.prompt_logprobs))
        if some and told + more > MOST_NUMBERS:
            yield tuple(some)
            some, told = [], 0
        some.append(output)
        told += more
    if some:
        yield tuple(some)


def _output(event: RequestEvent) -> Output:
    return Output(
        *(event.request, event.start, event.tokens, event.finish, event.cached, event.preemptions, event.recomputed),
        *(event.logprobs, event.prompt_logprobs, event.problem, event.closed),
    )
