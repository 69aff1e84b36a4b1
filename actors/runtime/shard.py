"""The owner of one shard: takes it, folds its log, decides on commands, commits, and performs effects.

A thread's inputs are handled one at a time and in order; threads go on beside one another, and what they commit
at the same moment shares an envelope. Whatever fails for good here (another owner, an append without an answer)
ends in dropping all state and taking the shard again: the log is the truth. What this code cannot fold or follow
stops its thread, and what it cannot decide goes to the dead letters: neighbours go on.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.errors import NotNow, Undecidable
from actors.runtime.cells import ROOM, Cell, Cells, Record
from actors.runtime.facts import facts_of
from actors.runtime.machine import Answer, Decision, Effect, Emitted, Machine, is_result
from actors.runtime.performer import Performer, Site
from actors.runtime.sealing import sealing
from bus.commands import CommandQueue, Delivery
from bus.commit import ShardWriter, Writer
from bus.connection import Connection
from bus.errors import BusError, Fenced, LogDamaged, OutcomeUnknown, Refused, Unavailable
from bus.live import Live
from bus.log import START
from bus.snapshots import ThreadKey
from schemas.context import REQUEST, TRACE, Chance, Clock, Context, Ids
from schemas.envelope import Fact
from schemas.faults import fault
from schemas.live import Outcome
from schemas.runs import CommandRefused, Event, Problem

log = logging.getLogger(__name__)

MAX_DELIVERIES = 5
"""A command that was delivered this often and never answered is taken to end its owners: it is buried."""

CHECKPOINT_S = 10.0
_DRAIN_GRACE_S = 0.5
_LOOK_S = 0.05
_TAKE_AGAIN_S = 0.2
_AGAIN_S = 1.0
"""After which what cannot be read now is asked for again: a command's thread, or a shard."""


@dataclass(slots=True)
class Doing:
    """An effect under way."""

    task: asyncio.Task[None]
    effect: Effect
    site: Site
    settles: bool = False
    """Whether it is done, and its result on its way into the log."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What every shard owner of a process shares."""

    connection: Connection
    clock: Clock
    ids: Ids
    chance: Chance
    writer: Writer
    slot: str
    machines: Mapping[str, Machine[Any]]
    performers: Mapping[str, Performer]
    record: Record
    survived: dict[str, int] = field(default_factory=dict)
    """Deliveries of commands that came to nothing although this process lived on."""
    room: int = ROOM
    """Idle threads that a shard keeps in memory."""
    probation: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while an effect runs that was under way when its process ended, twice: one at a time, so that the next end
    of the process is the fault of that one."""


class ShardOwner:
    """Owns one shard for as long as `run` runs."""

    def __init__(self, runtime: Runtime, shard: int) -> None:
        self._runtime = runtime
        self._shard = shard
        self._cells = self._no_cells()
        self._live = Live(runtime.connection)
        self._queue = CommandQueue(runtime.connection, shard, runtime.writer.process, runtime.survived)
        self._doing: dict[ThreadKey, dict[str, Doing]] = {}
        """What is done for each thread's effects, by their ids."""
        self._drain_s = 0.0
        self._drained = asyncio.Event()
        self._pen: ShardWriter | None = None
        self._known = START
        """Where the shard had got when it was last ours."""
        self.ready = asyncio.Event()
        """Set while the shard is taken and folded."""

    def statistics(self) -> dict[str, int]:
        """Say how much is in hand."""
        return {
            "threads": len(self._cells),
            "stopped": sum(cell.stopped is not None for cell in self._cells),
            "commands": self._queue.in_hand,
            "effects": sum(map(len, self._doing.values())),
            "appends": 0 if self._pen is None else self._pen.waiting,
            "sequence": 0 if self._pen is None else self._pen.position.sequence,
            "checkpoint": self._cells.kept,
        }

    async def run(self) -> None:
        """Own the shard until cancelled or drained; after being fenced or a lost append, take it again.

        Raises:
            LogDamaged: what the shard holds is not what it held, or not whole; in an exception group.
        """
        while not self._drained.is_set():
            pause = _TAKE_AGAIN_S
            try:
                await self._own()
            except* LogDamaged:
                raise
            except* (Fenced, OutcomeUnknown) as errors:
                log.warning("shard %s: taking it again: %s", self._shard, errors.exceptions[0])
            except* NotNow as errors:
                # each try has written a marker
                log.warning("shard %s: %s", self._shard, errors.exceptions[0])
                pause = _AGAIN_S
            except* (BusError, TimeoutError) as errors:
                log.warning("shard %s: %s", self._shard, errors.exceptions[0])
            self.ready.clear()
            self._known = self._known if self._pen is None else self._pen.position
            if not self._drained.is_set():
                await asyncio.sleep(pause)

    async def drain(self, seconds: float) -> None:
        """Take no more commands, let what cannot be gone on with elsewhere come to its end, and own no more.

        Args:
            seconds: how long what is under way may take; then it is left as after a crash.
        """
        self._drain_s = seconds
        self._queue.stop()
        try:
            async with asyncio.timeout(seconds + _DRAIN_GRACE_S):
                await self._drained.wait()
        except TimeoutError:
            log.warning("shard %s: not drained within %.1f s", self._shard, seconds)

    async def _own(self) -> None:
        runtime = self._runtime
        known = max(self._known, await runtime.record.head(self._shard), key=lambda position: position.sequence)
        pen = await ShardWriter.take(
            runtime.connection, self._shard, runtime.writer, runtime.clock, runtime.ids, runtime.slot, known
        )
        self._pen = pen
        await self._live.again(pen.before)  # at once: who takes it after a failure below finds this owner's marker last
        self._cells = self._no_cells()
        await self._cells.take(runtime.connection, pen.position.sequence)
        pen.on_commit = self._live.committed
        log.info("shard %s: taken in term %s, %s threads", self._shard, pen.position.term, len(self._cells))
        async with asyncio.TaskGroup() as tasks:
            for cell in self._cells:
                if cell.stopped is None:
                    for effect in runtime.machines[cell.family].open_effects(cell.state):
                        self._do(tasks, cell, effect, self._resume(tasks, cell, effect))
            keeping = tasks.create_task(self._keep(), name=f"checkpoints-{self._shard}")
            self.ready.set()
            async for delivery in self._queue.deliveries():
                tasks.create_task(self._handle(tasks, delivery), name=f"command-{delivery.command.id}")
            await self._finish()
            keeping.cancel()

    async def _finish(self) -> None:
        """Wait for the effects that nobody else can go on with, and leave the others to the next owner."""
        end = time.monotonic() + self._drain_s
        while (left := end - time.monotonic()) > 0:
            for doing in self._under_way():
                if not doing.settles and not self._is_ours(doing.effect):
                    doing.task.cancel()
            finishing = [doing.task for doing in self._under_way() if self._is_ours(doing.effect)]
            if not finishing and not self._queue.in_hand:
                break
            await asyncio.wait(finishing or [asyncio.create_task(asyncio.sleep(_LOOK_S))], timeout=min(left, _LOOK_S))
        for doing in self._under_way():
            doing.task.cancel()
        self._drained.set()

    def _under_way(self) -> list[Doing]:
        return [doing for of_thread in self._doing.values() for doing in of_thread.values()]

    def _is_ours(self, effect: Effect) -> bool:
        return any(performer.must_finish(effect) for performer in self._runtime.performers.values())

    def _no_cells(self) -> Cells:
        runtime = self._runtime
        return Cells(runtime.machines, runtime.record, self._shard, runtime.room, runtime.connection.keys)

    async def checkpoint(self) -> None:
        """Note how far the shard is known, so that the next owner need not read it from the beginning.

        Raises:
            Unavailable: Postgres cannot be reached.
            TimeoutError: it does not answer.
        """
        if self._pen is not None and self._pen.is_writing:
            await self._cells.checkpoint(self._pen.position.sequence, self._doing)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            try:
                await self.checkpoint()
            except Exception as error:  # noqa: BLE001  whatever is wrong with a cache, its shard goes on
                log.warning("shard %s: no checkpoint now: %s", self._shard, fault(error))

    async def _handle(self, tasks: asyncio.TaskGroup, delivery: Delivery) -> None:
        """Decide on a command, commit, tell its sender, then acknowledge it."""
        command = delivery.command
        TRACE.set(command.traceparent)
        REQUEST.set(command.request_id)
        try:
            async with self._cells.using(ThreadKey(command.kind, command.tenant, command.thread)) as cell:
                answer = self._runtime.machines[cell.family].answered(cell.state, command.id)
                if answer is None:
                    answer = await self._decide(tasks, cell, delivery)
        except (BusError, TimeoutError):
            raise
        except NotNow as reason:
            log.warning("command %s is put off: %s", command.id, reason)
            await delivery.later(_AGAIN_S)
            return
        except Undecidable as error:
            await self._queue.bury(delivery.message, str(error))
            return
        except Exception as error:  # noqa: BLE001  a command that breaks the decider must not stop its queue
            await self._queue.bury(delivery.message, traceback.format_exc(limit=3), fault(error))
            return
        problem = answer if isinstance(answer, Problem) else None
        log.info("command %s: %s", command.id, "accepted" if problem is None else f"refused ({problem.kind})")
        await asyncio.sleep(0)  # what it begins is waited for longer than word of it, so that goes first
        outcome = Outcome(command.id, "accepted" if problem is None else "refused", command.thread, problem)
        await self._live.outcome(command.tenant, outcome)
        await delivery.ack()

    async def _decide(self, tasks: asyncio.TaskGroup, cell: Cell, delivery: Delivery) -> Answer:
        """Decide and commit; return what to tell the sender. The caller holds the cell's lock."""
        command = delivery.command
        if cell.stopped is not None:
            raise Undecidable(f"thread {cell.thread!r} is stopped: {cell.stopped}")
        if delivery.attempt > MAX_DELIVERIES:
            raise Undecidable(f"delivered {MAX_DELIVERIES} times, and no owner lived to answer it")
        await sealing(cell, self._runtime.connection.keys)
        asked = await self._runtime.performers[cell.family].look_up(command, cell.state)
        decision = self._runtime.machines[cell.family].ask(cell.state, asked, self._context())
        facts = facts_of(cell, decision.events, command.id, command.traceparent)
        try:
            await self._commit(cell, decision.events, facts)
        except Refused as refusal:
            if refusal.too_large:
                raise Undecidable(f"too large to be logged: {refusal.description}") from refusal
            raise
        self._begin_all(tasks, cell, decision)
        await self._stop_what_is_over(cell)
        first = decision.events[0].event
        return first.problem if isinstance(first, CommandRefused) else "accepted"

    def _context(self) -> Context:
        return Context(now=self._runtime.clock.now(), seed=self._runtime.chance.bits(48))

    async def _commit(self, cell: Cell, events: Sequence[Emitted], facts: Sequence[Fact]) -> None:
        """Append, and fold what was acknowledged. The caller holds the cell's lock."""
        assert self._pen is not None
        try:
            place = await self._pen.append(facts)
        except asyncio.CancelledError:
            # it may be in the log and is not in the state: nothing more may be decided on that
            self._pen.give_up()
            raise
        self._cells.committed(cell, place.sequence, events, facts)

    def _begin_all(self, tasks: asyncio.TaskGroup, cell: Cell, decision: Decision) -> None:
        for effect in decision.effects:
            self._begin(tasks, cell, effect, again=False)

    def _begin(self, tasks: asyncio.TaskGroup, cell: Cell, effect: Effect, again: bool) -> None:
        self._do(tasks, cell, effect, self._perform(tasks, cell, effect, again))

    def _do(self, tasks: asyncio.TaskGroup, cell: Cell, effect: Effect, work: Coroutine[Any, Any, None]) -> None:
        task = tasks.create_task(work, name=f"effect-{effect.id}")
        key = cell.key
        site = Site(cell.tenant, cell.thread, cell.versions[effect.kind, effect.entity], cell.seal)
        self._doing.setdefault(key, {})[effect.id] = Doing(task, effect, site)
        task.add_done_callback(lambda done: self._done(key, effect.id, done))

    def _done(self, key: ThreadKey, effect: str, task: asyncio.Task[None]) -> None:
        of_thread = self._doing.get(key, {})
        if effect in of_thread and of_thread[effect].task is task:
            del of_thread[effect]
        if not of_thread:
            self._doing.pop(key, None)

    async def _stop_what_is_over(self, cell: Cell) -> None:
        """Stop effects that a decision has made pointless. The caller holds the cell's lock."""
        own = asyncio.current_task()
        of_thread = self._doing.get(cell.key, {})
        begun = {name: doing for name, doing in of_thread.items() if doing.task is not own}
        if not begun:
            return
        wanted = {effect.id for effect in self._runtime.machines[cell.family].open_effects(cell.state)}
        for identity, doing in begun.items():
            if identity not in wanted:
                doing.task.cancel()
                await self._runtime.performers[cell.family].abort(doing.effect, doing.site)

    async def _resume(self, tasks: asyncio.TaskGroup, cell: Cell, effect: Effect) -> None:
        """Do again what an earlier owner began; what may have ended its process twice is done alone."""
        if effect.attempts > 1:
            async with self._runtime.probation:
                await self._note_and_perform(tasks, cell, effect)
        else:
            await self._note_and_perform(tasks, cell, effect)

    async def _note_and_perform(self, tasks: asyncio.TaskGroup, cell: Cell, effect: Effect) -> None:
        event = self._runtime.performers[cell.family].resumption(effect)
        if event is not None:
            async with cell.lock:
                events = [Emitted(effect.kind, effect.entity, event)]
                await self._commit(cell, events, facts_of(cell, events, effect.id, effect.traceparent))
        # if it is what ended the process before, this is what its log ends with
        log.info("shard %s: taking up %s of thread %r again", self._shard, effect.id, cell.thread)
        await self._perform(tasks, cell, effect, again=True)

    async def _perform(self, tasks: asyncio.TaskGroup, cell: Cell, effect: Effect, again: bool) -> None:
        """Do an effect, commit its result with what follows from it, and go on."""
        TRACE.set(effect.traceparent)
        REQUEST.set("")  # whichever command's task it was made in
        try:
            event = await self._performed(cell, effect, again)
            self._doing[cell.key][effect.id].settles = True
            async with cell.lock:
                if cell.stopped is None and self._is_open(cell, effect):
                    await self._follow(tasks, cell, effect, event)
        except (BusError, TimeoutError):
            raise
        except Exception as error:  # noqa: BLE001  what breaks one thread must not take its shard along
            cell.stop(f"after {effect.id!r}", traceback.format_exc(limit=3), fault(error))

    async def _performed(self, cell: Cell, effect: Effect, again: bool) -> Event:
        """Do an effect. One that cannot get at a server begins again, alone: the others of its shard are under way."""
        site = Site(cell.tenant, cell.thread, cell.versions[effect.kind, effect.entity], cell.seal)
        performer = self._runtime.performers[cell.family]
        while True:
            try:
                return await performer.perform(effect, site, again)
            except (Unavailable, Refused, TimeoutError) as error:
                log.warning("shard %s: %s of thread %r waits: %s", self._shard, effect.id, cell.thread, fault(error))
            await asyncio.sleep(_AGAIN_S)
            again = True

    def _is_open(self, cell: Cell, effect: Effect) -> bool:
        """Say whether a result is still wanted: what was aborted may not heed it."""
        return any(wanted.id == effect.id for wanted in self._runtime.machines[cell.family].open_effects(cell.state))

    async def _follow(self, tasks: asyncio.TaskGroup, cell: Cell, effect: Effect, event: Event) -> None:
        assert is_result(event), f"{event!r} is not a result"
        machine = self._runtime.machines[cell.family]
        result = Emitted(effect.kind, effect.entity, event)
        decision = machine.follow(machine.evolve(cell.state, result), result, self._context())
        events = [result, *decision.events]
        facts = facts_of(cell, events, effect.id, effect.traceparent)
        try:
            await self._commit(cell, events, facts)
        except Refused as refusal:
            if not refusal.too_large:
                raise
            cell.stop(f"the result of {effect.id!r}", f"too large to be logged: {refusal.description}")
            return
        self._begin_all(tasks, cell, decision)
        await self._stop_what_is_over(cell)
