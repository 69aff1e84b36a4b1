"""Sends a command and follows the entity it leads to, until its end: what the bridge and `ostinato run` stand on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

import msgspec

from bus import subjects
from bus.commands import send_command
from bus.connection import Connection
from bus.errors import BusError
from bus.live import expecting
from schemas import codec
from schemas.answers import TokenTold
from schemas.commands import AbortRun, Approve, Command, Deny, PostResult, Resume
from schemas.forks import Fork
from schemas.live import Committed, Delta, Frame, Outcome, Progress
from schemas.runs import CommandRefused, ModelCalled

log = logging.getLogger(__name__)

_ENTITY = {"agent": "run", "generation": "generation"}
_LAST = {
    "run": frozenset({"run.finished", "run.failed", "run.joined"}),
    "generation": frozenset({"model.returned", "model.failed"}),
}
_SILENCE_S = 2.0
_LONGEST_SILENCE = 4
"""Times that."""
_RECORD_S = 0.05
_LATE_LOOKS = 20

Pieced = TypeVar("Pieced", str, tuple[TokenTold, ...], tuple[int, ...])

ReadBack = Callable[[str, str, str, str, int], Awaitable[list[Committed]]]
"""(tenant, thread, kind, entity, after version) to the events recorded since: what a watcher missed."""

FramesOf = Callable[[str], Awaitable[Sequence[Delta]]]
"""A call's effect to what is recorded of its deltas."""


def entity_of(command: Command) -> tuple[str, str]:
    """Name the entity a command is about: a run is named after its command, an approval's effect after its run."""
    if isinstance(command.data, Approve | Deny | Resume | PostResult):
        return "run", command.data.effect.rsplit("-", 2)[0]
    if isinstance(command.data, Fork):
        return "run", command.data.run
    if isinstance(command.data, AbortRun) and command.kind == "agent":
        return "run", command.data.run
    kind = _ENTITY[command.kind]
    return kind, command.id if kind == "run" else command.thread


async def follow(
    connection: Connection, read_back: ReadBack, command: Command, timeout_s: float = 600.0, after: int = 0
) -> AsyncIterator[Frame]:
    """Send `command`; yield its outcome, then events and deltas in order, each once, until the last event.

    Of an entity that is there already (an approval's run), what comes after version `after` is yielded.

    Live frames may be lost with a connection; what is missing is read back from the recorded log, so that the
    sequence of events has no gap. A delta that overlaps text already yielded is cut.

    Raises:
        TimeoutError: the end did not come within `timeout_s` seconds.
        Refused: the command stream does not take the command.
        Unavailable: no NATS.
    """
    async with aclosing(follow_together(connection, read_back, command, timeout_s, after)) as together:
        async for frames in together:
            for frame in frames:
                yield frame


async def follow_together(
    connection: Connection, read_back: ReadBack, command: Command, timeout_s: float = 600.0, after: int = 0
) -> AsyncGenerator[Sequence[Frame]]:
    """Do as `follow` does; deltas that have come at once are yielded at once, for whoever writes them at once."""
    kind, entity = entity_of(command)
    outcome_subject = subjects.live(command.tenant, "command", command.id)
    async with expecting(connection, outcome_subject, subjects.live(command.tenant, kind, entity)) as watcher:
        await send_command(connection, command)
        order = _Order(kind, command.thread, after)
        deadline, silence = time.monotonic() + timeout_s, _SILENCE_S
        while (left := deadline - time.monotonic()) > 0:
            frame = await watcher.next(min(silence, left))
            # who waits for long is looked after less often: many may wait
            silence = min(2 * silence, _LONGEST_SILENCE * _SILENCE_S) if frame is None else _SILENCE_S
            if isinstance(frame, Delta):
                passed = order.take(frame)
                for more in watcher.deltas():
                    passed += order.take(more)
                if passed:
                    yield passed
                continue
            async for late in _with_what_was_missed(frame, order, read_back, command, after, deadline):
                yield (late,)
            if order.over:
                return
    raise TimeoutError(f"{kind} {entity!r} did not end within {timeout_s:.0f} s")


async def attend(
    connection: Connection,
    read_back: ReadBack,
    command: Command,
    frames_of: FramesOf,
    *,
    begin: Callable[[], Awaitable[None]] | None = None,
    timeout_s: float = 600.0,
    after: int = 0,
) -> AsyncIterator[Frame]:
    """Yield all of a run, from its first event to its last, whoever began it and however late one comes.

    Of a call that is under way, what was heard before is read from the trace of deltas.

    Args:
        connection: to NATS.
        read_back: the record.
        command: the run's; of one that somebody else sent, its tenant, thread and id.
        frames_of: gives the recorded deltas of a call, by its effect.
        begin: sends the command, once it is listened to what comes of it; None where that was done.
        timeout_s: after so long without an end it is given up.
        after: events up to this version are known, and not yielded.

    Raises:
        TimeoutError: the end did not come.
        Refused: the command stream does not take the command.
        Unavailable: no NATS.
    """
    kind, entity = entity_of(command)
    heard = (subjects.live(command.tenant, kind, entity), subjects.live(command.tenant, "command", command.id))
    order = _Order(kind, command.thread)
    calls = _Calls(order, frames_of)
    deadline, silence = time.monotonic() + timeout_s, 0.0
    async with expecting(connection, *heard) as watcher:
        if begin is not None:
            await begin()
            silence = _SILENCE_S
        while (left := deadline - time.monotonic()) > 0:
            frame = await watcher.next(min(silence, left)) if silence else None
            silence = _SILENCE_S if frame is not None else min(2 * silence or _SILENCE_S, _LONGEST_SILENCE * _SILENCE_S)
            for delta in await calls.before(frame):
                yield delta
            async for passed in _with_what_was_missed(frame, order, read_back, command, 0, deadline):
                calls.note(passed)
                if not isinstance(passed, Committed) or passed.version > after:
                    yield passed
            if order.over:
                return
            for delta in await calls.so_far(frame):
                yield delta
    raise TimeoutError(f"{kind} {entity!r} did not end within {timeout_s:.0f} s")


class _Calls:
    """What the model calls of a run have come to that nobody here heard."""

    def __init__(self, order: _Order, frames_of: FramesOf) -> None:
        self._order = order
        self._frames_of = frames_of
        self._effect = ""
        """Of the call that is under way."""

    def note(self, passed: Frame) -> None:
        """Take in what was passed on."""
        if isinstance(passed, Committed):
            called = passed.type == "model.called"
            self._effect = codec.decode(passed.data, ModelCalled).effect if called else ""

    async def before(self, heard: Frame | None) -> list[Frame]:
        """Give what came of a call before a delta that was heard; it is recorded a moment later than that is told."""
        passed: list[Frame] = []
        looks = _LATE_LOOKS
        while isinstance(heard, Delta) and self._order.lacks(heard) and looks:
            passed += await self._recorded(heard.effect)
            looks -= 1
            if self._order.lacks(heard):
                await asyncio.sleep(_RECORD_S)
        return passed

    async def so_far(self, heard: Frame | None) -> list[Frame]:
        """Give what came of the call that is under way, when nothing is heard of it."""
        return await self._recorded(self._effect) if heard is None and self._effect else []

    async def _recorded(self, effect: str) -> list[Frame]:
        try:
            deltas = await self._frames_of(effect)
        except (BusError, TimeoutError) as error:
            log.warning("deltas of %s: %s", effect, error)
            return []  # the whole text comes with the result
        return [passed for delta in deltas for passed in self._order.take(delta)]


async def _with_what_was_missed(
    frame: Frame | None, order: _Order, read_back: ReadBack, command: Command, after: int, deadline: float
) -> AsyncIterator[Frame]:
    """Yield what a frame adds, after what came before it and was not heard; of a silence, what was missed in it.

    An event is heard before it is recorded, so what came before it may have to be waited for.
    """
    while frame is None or order.misses(frame):
        for late in await _missed(read_back, command, order.version, after):
            for passed in order.take(late):
                yield passed
        if frame is None or time.monotonic() >= deadline:
            return
        if order.misses(frame):
            await asyncio.sleep(_RECORD_S)
    for passed in order.take(frame):
        yield passed


async def send(connection: Connection, command: Command, timeout_s: float = 10.0) -> Outcome:
    """Send `command` and return what became of it.

    Raises:
        TimeoutError: nobody said within `timeout_s` seconds; the command may still be taken.
        Refused: the command stream does not take the command.
        Unavailable: no NATS.
    """
    async with expecting(connection, subjects.live(command.tenant, "command", command.id)) as watcher:
        await send_command(connection, command)
        frame = await watcher.next(timeout_s)
    if not isinstance(frame, Outcome):
        raise TimeoutError(f"nobody answered command {command.id!r} within {timeout_s:.0f} s")
    return frame


async def _missed(read_back: ReadBack, command: Command, version: int, after: int) -> list[Frame]:
    """Read back what was missed; nothing while the record cannot be reached: it is asked again soon.

    As long as nothing was heard at all, that may be the command's refusal: an event of its thread.
    """
    tenant, thread = command.tenant, command.thread
    try:
        events = await read_back(tenant, thread, *entity_of(command), version)
        if not events and version == after:
            events = await read_back(tenant, thread, "thread", thread, 0)
    except (BusError, TimeoutError) as error:
        log.warning("reading back: %s", error)
        return []
    return [frame for event in events if (frame := _of_command(event, command)) is not None]


def _of_command(event: Committed, command: Command) -> Frame | None:
    """Pass an event of the command's entity; a refusal becomes the outcome that was not heard."""
    if event.type == "command.refused" and event.cause == command.id:
        refused: CommandRefused = codec.decode(event.data, CommandRefused)
        return Outcome(command=command.id, result="refused", thread=command.thread, problem=refused.problem)
    return event if event.subject == entity_of(command)[1] and event.thread == command.thread else None


class _Order:
    """Lets each frame of one thread's entity pass once and in order."""

    def __init__(self, kind: str, thread: str, after: int = 0) -> None:
        self._last = _LAST[kind]
        self._thread = thread
        self.version = after
        self.over = False
        self._effect = ""
        self._passed: dict[tuple[str, int], int] = {}
        """How much of each answer of the call under way: characters of its text, of its reasoning and of its tool
        calls, and tokens."""

    def misses(self, frame: Frame) -> bool:
        """Say whether there must be events before this one that did not pass."""
        return isinstance(frame, Committed) and frame.thread == self._thread and frame.version > self.version + 1

    def lacks(self, delta: Delta) -> bool:
        """Say whether there must be pieces of this call before this one that did not pass."""
        if delta.version < self.version:
            return False
        passed = self._passed if delta.effect == self._effect else {}
        called = "" if delta.call is None else delta.call.id
        pieces = (
            ("text", delta.offset, delta.text),
            ("reasoning", delta.reasoning_offset, delta.reasoning),
            (f"call {called}", delta.arguments_offset, delta.arguments),
        )
        return any(piece and offset > passed.get((name, delta.choice), 0) for name, offset, piece in pieces)

    def take(self, frame: Frame) -> list[Frame]:
        if frame.thread != self._thread:
            # another thread's run of the same name: clients choose ids
            return []
        if isinstance(frame, Delta):
            # an owner that was overtaken still streams a call whose result is in
            return [] if frame.version < self.version else self._cut(frame)
        return [frame] if isinstance(frame, Progress) else self._ordered(frame)

    def _ordered(self, frame: Committed | Outcome) -> list[Frame]:
        match frame:
            case Outcome(result=result):
                self.over = self.over or result != "accepted"
                return [frame]
            case Committed(version=version) if version <= self.version:
                return []
            case Committed(version=version, type=type_):
                self.version = version
                self.over = type_ in self._last
                return [frame]

    def _cut(self, delta: Delta) -> list[Frame]:
        if delta.effect != self._effect:
            self._effect, self._passed = delta.effect, {}
        if delta.text and not (delta.reasoning or delta.arguments or delta.logprobs or delta.token_ids):
            # a piece of text that follows the last one, as nearly all do
            key = ("text", delta.choice)
            if self._passed.get(key, 0) == delta.offset:
                self._passed[key] = delta.offset + len(delta.text)
                return [delta]
        offset, text = self._beyond("text", delta.choice, delta.offset, delta.text)
        before, reasoning = self._beyond("reasoning", delta.choice, delta.reasoning_offset, delta.reasoning)
        called = "" if delta.call is None else delta.call.id
        begin, arguments = self._beyond(f"call {called}", delta.choice, delta.arguments_offset, delta.arguments)
        first, logprobs = self._beyond("logprobs", delta.choice, delta.token_offset, delta.logprobs)
        at, token_ids = self._beyond("token_ids", delta.choice, delta.token_offset, delta.token_ids)
        if not (text or reasoning or arguments or logprobs or token_ids):
            return []
        said = {"offset": offset, "text": text, "reasoning_offset": before, "reasoning": reasoning}
        said |= {"call": delta.call if arguments else None, "arguments_offset": begin, "arguments": arguments}
        told = {"token_offset": max(first, at), "logprobs": logprobs, "token_ids": token_ids}
        return [msgspec.structs.replace(delta, **said, **told)]

    def _beyond(self, name: str, choice: int, offset: int, piece: Pieced) -> tuple[int, Pieced]:
        """Give what of a piece did not pass yet, and count it; nothing if there is a gap before it."""
        length = self._passed.get((name, choice), 0)
        rest = piece[length - offset :] if offset <= length else piece[:0]
        if not rest:
            return offset, rest
        self._passed[name, choice] = length + len(rest)
        return length, rest
