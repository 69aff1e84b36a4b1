"""What is beneath a run: the runs of other agents that it has asked, and what those wait for.

The record alone says so. What is heard of it live is lost when nobody listens, and a tool may say anything: it is no
more than a reason to look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple, Protocol, cast

from actors.agent.delegation import child_run, child_thread
from actors.agent.loop import MOST_DEPTH
from bus.errors import BusError
from bus.store import StoredEvent
from bus.waits import calls_of_runs
from infra.bridge.desk import Around
from infra.bridge.late import caught_up
from schemas import codec
from schemas.errors import SchemaError
from schemas.live import Committed, Frame, Progress
from schemas.runs import ApprovalRequested, Event, ToolCalled
from schemas.waits import ToolHandedOver, ToolSuspended

log = logging.getLogger(__name__)

_WAITS: Final = frozenset({"approval.requested", "tool.suspended", "tool.handed_over"})
_ENDS: Final = frozenset({"tool.returned", "tool.failed", "tool.indeterminate"})
_SILENCE_S, _LONGEST_S = 0.5, 5.0
"""Of silence, before it is looked whether somebody is waited for beneath."""


class Look(Protocol):
    """Reads what is beneath a run."""

    async def __call__(self, *, late: bool) -> Below:
        """Read it; with `late`, when the record holds what is in the log by now."""


class FromBelow(NamedTuple):
    """An event of another agent's run, or of one that that one asked."""

    place: tuple[int, int]
    """In the log."""
    effect: str
    """Of the run's own call that all this is beneath."""
    thread: str
    """Whose event it is: where an answer goes."""
    event: Event


class Below(NamedTuple):
    """What is read of that at once."""

    events: tuple[FromBelow, ...]


Heard = Frame | Below


async def below(desk: Around, tenant: str, thread: str, effects: Iterable[str]) -> list[FromBelow]:
    """Read what is beneath calls of a thread's run, in the order of the log; nothing where they are no agents.

    Raises:
        Unavailable: Postgres cannot be reached.
        SchemaError: an event cannot be read.
    """
    found: list[FromBelow] = []
    level = {child_thread(tenant, thread, effect): effect for effect in effects}
    store = await desk.store() if level else None
    for _ in range(MOST_DEPTH):
        if not level or store is None:
            break
        stored = await calls_of_runs(store, tenant, [child_run(name) for name in level])
        told = [_told(one, level) for one in stored if one.fact.thread in level]
        found += told
        level = {
            child_thread(tenant, one.thread, one.event.effect): one.effect
            for one in told
            if isinstance(one.event, ToolCalled)
        }
    return sorted(found, key=lambda one: one.place)


def _told(stored: StoredEvent, level: Mapping[str, str]) -> FromBelow:
    place, thread = (stored.sequence, stored.idx), stored.fact.thread
    return FromBelow(place, level[thread], thread, codec.event_of(stored.fact))


def merged(events: Iterable[Committed], beneath: Iterable[FromBelow]) -> list[Heard]:
    """Put a run's events and those from beneath it in the order of the log; what waits at once is told at once."""
    told: list[tuple[tuple[int, int], Committed | FromBelow]] = [(_place(event), event) for event in events]
    told += [(one.place, one) for one in beneath]
    found = list[Heard]()
    for _, one in sorted(told, key=lambda entry: entry[0]):
        last = found[-1] if found else None
        if isinstance(one, Committed):
            found.append(one)
        elif isinstance(last, Below) and (_may_wait(one) or not _may_wait(last.events[-1])):
            found[-1] = Below((*last.events, one))
        else:
            found.append(Below((one,)))
    return found


def _may_wait(one: FromBelow) -> bool:
    return isinstance(one.event, ApprovalRequested | ToolSuspended | ToolHandedOver | ToolCalled)


def _place(event: Committed) -> tuple[int, int]:
    sequence, _, idx = event.id.partition("-")
    return int(sequence), int(idx)


async def with_what_is_below(
    frames: AsyncIterator[Frame],
    desk: Around,
    whose: tuple[str, str],
    open_calls: Callable[[], Mapping[str, bool]],
) -> AsyncGenerator[Heard]:
    """Do as `together_with_what_is_below` does, one frame at a time."""

    async def one_by_one() -> AsyncGenerator[Sequence[Frame]]:
        async with aclosing(cast("AsyncGenerator[Frame]", frames)) as source:
            async for frame in source:
                yield (frame,)

    async with aclosing(together_with_what_is_below(one_by_one(), desk, whose, open_calls)) as passed:
        async for several in passed:
            for one in several:
                yield one


async def together_with_what_is_below(
    frames: AsyncGenerator[Sequence[Frame]],
    desk: Around,
    whose: tuple[str, str],
    open_calls: Callable[[], Mapping[str, bool]],
) -> AsyncGenerator[Sequence[Heard]]:
    """Pass a run's frames on, and between them what the record has of what is beneath its calls: all of it, each time.

    Args:
        frames: of the run, those that came at once together.
        desk: the record.
        whose: the run's tenant and thread.
        open_calls: gives the effects of its calls that have not ended, and whether anything is beneath each.
    """

    async def look(*, late: bool) -> Below:
        try:
            if late:
                await caught_up(desk)
            return Below(tuple(await below(desk, *whose, open_calls())))
        except (SchemaError, BusError, TimeoutError) as error:
            log.warning("thread %s: it is not known what is waited for beneath it: %s", whose[1], error)
            return Below(())

    async with aclosing(frames), aclosing(_passed(frames, open_calls, look)) as passed:
        async for several in passed:
            yield several


async def _passed(
    source: AsyncGenerator[Sequence[Frame]], open_calls: Callable[[], Mapping[str, bool]], look: Look
) -> AsyncGenerator[Sequence[Heard]]:
    while True:
        if not open_calls():
            frames = await anext(source, None)
        else:
            coming = asyncio.ensure_future(anext(source, None))
            async with aclosing(_meanwhile(coming, look)) as meanwhile:
                async for one in meanwhile:
                    yield (one,)
            frames = coming.result()
        if frames is None:
            return
        if any(_says_something_waits(frame) or _ends_what_is_above(frame, open_calls()) for frame in frames):
            yield (await look(late=True),)
        yield frames


async def _meanwhile(coming: asyncio.Future[Sequence[Frame] | None], look: Look) -> AsyncGenerator[Below]:
    """Look now and then, as long as nothing is heard."""
    silence = _SILENCE_S
    try:
        while not (await asyncio.wait({coming}, timeout=silence))[0]:
            silence = min(2 * silence, _LONGEST_S)
            yield await look(late=False)
    finally:
        coming.cancel()
        await asyncio.wait({coming})


def _says_something_waits(frame: Frame) -> bool:
    if not isinstance(frame, Progress) or not isinstance(frame.data, dict):
        return False
    event = frame.data.get("event")
    return isinstance(event, dict) and event.get("type") in _WAITS


def _ends_what_is_above(frame: Frame, open_calls: Mapping[str, bool]) -> bool:
    """Say whether a call ends beneath which something is: that has come to its end before."""
    if not isinstance(frame, Committed) or frame.type not in _ENDS:
        return False
    return open_calls.get(str(getattr(codec.decode_event(frame.data), "effect", "")), False)
