"""Responses told again as streams: from the beginning, or from where a client had got to.

What was streamed here is told again as it was, event for event, as long as it is remembered. What is not is told anew
from the log, in fewer and larger pieces: it has other numbers, so nobody can go on in the middle of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from bus.errors import BusError
from infra.bridge.framing import NamedFraming
from infra.bridge.handed import Told
from infra.bridge.openai import BadRequest
from infra.bridge.responses.events import ResponseEncoder
from infra.bridge.responses.items import Event
from schemas.commands import Command
from schemas.live import Delta

log = logging.getLogger(__name__)

Following = Callable[[Command], AsyncGenerator[Told]]
"""Hears what comes of a command, from the beginning."""

_MOST_TOLD: Final = 256
"""Responses of which it is remembered that their end was told here."""
_MOST_EVENTS: Final = 100_000
"""Of all of them together."""
_LOOK_S: Final = 0.5


class Retold(ResponseEncoder):
    """A response, and all that was told of it."""

    def __init__(self, command: Command) -> None:
        super().__init__(command)
        self.command = command
        self.events: list[Event] | None = []
        """None where they were too many to be remembered."""
        self.over_told = False
        """Whether the last of them is there."""
        self.grown: Callable[[int], None] = lambda count: None
        """Hears of more events."""
        self.feeding = asyncio.Lock()
        self._more = asyncio.Event()

    def feed(self, frame: Told, index: int = 0) -> list[Event]:
        """Give the events that follow from one frame, and remember them."""
        return self._remembered(super().feed(frame, index))

    def failed(self) -> list[Event]:
        """Give the events that tell of the problem; once."""
        return [] if self.over_told else self._remembered(super().failed())

    async def more(self, seconds: float) -> None:
        """Wait for more events, for so long at most."""
        try:
            async with asyncio.timeout(seconds):
                await self._more.wait()
        except TimeoutError:
            return

    def forget(self) -> int:
        """Remember no events, from here on; return how many there were."""
        events, self.events = self.events or [], None
        return len(events)

    def _remembered(self, events: list[Event]) -> list[Event]:
        if self.events is not None and events:
            self.events += events
            self.grown(len(events))
        self.over_told = self.over_told or any(event["type"] in _LAST for event in events)
        self._more.set()
        self._more.clear()
        return events


_LAST: Final = frozenset(f"response.{status}" for status in ("completed", "incomplete", "failed"))


class NotRemembered(Exception):
    """What was told of a response was forgotten while it was told again."""


class Memory:
    """The responses that were told of here lately, by their ids."""

    def __init__(self) -> None:
        self._told: OrderedDict[str, Retold] = OrderedDict()
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._events = 0
        """Of all that are remembered."""

    def keep(self, identity: str, told: Retold) -> None:
        """Remember one; the oldest are forgotten."""
        self._told[identity] = told
        told.grown = self._grown
        if len(self._told) > _MOST_TOLD:
            _, oldest = self._told.popitem(last=False)
            self._drop(oldest)

    def _grown(self, count: int) -> None:
        """Hear of more events; those of the oldest responses are too many now."""
        self._events += count
        for one in self._told.values():
            if self._events <= _MOST_EVENTS:
                break
            self._events -= one.forget()

    def _drop(self, told: Retold) -> None:
        told.grown = lambda count: None
        self._events -= len(told.events or ())

    def find(self, identity: str) -> Retold | None:
        """Return one; None where it is not remembered."""
        return self._told.get(identity)

    def delete(self, identity: str) -> None:
        """Forget one, and that it was, though the record is a moment late."""
        told = self._told.pop(identity, None)
        if told is not None:
            self._drop(told)
        self._gone[identity] = None
        if len(self._gone) > _MOST_TOLD:
            self._gone.popitem(last=False)

    def is_gone(self, identity: str) -> bool:
        """Say whether one was deleted here."""
        return identity in self._gone


async def told_again(
    told: Retold, after: int, elsewhere: Callable[[], bool], following: Following
) -> AsyncGenerator[Event]:
    """Tell a response's events again, and those that come.

    Args:
        told: the response.
        after: the number of the last event that is not told again; -1 tells all.
        elsewhere: whether somebody here hears of it, so that its events come by themselves.
        following: hears of it from its beginning on, where nobody does.
    """
    at, fresh = after + 1, not told.events
    while (events := told.events) is not None:
        while at < len(events):  # it may grow meanwhile
            yield events[at]
            at += 1
        if told.over_told:
            return
        if told.feeding.locked() or (elsewhere() and not told.over):
            await told.more(_LOOK_S)
            continue
        async with told.feeding, aclosing(following(told.command)) as frames:
            async for frame in frames:
                # a piece may be one that was told before: what is missing comes with the whole
                if fresh or not isinstance(frame, Delta):
                    told.feed(frame)
                while at < len(events):
                    yield events[at]
                    at += 1
        if told.problem is not None:
            told.failed()
        elif not told.over_told:
            return  # it went on in another one
    raise NotRemembered


async def written_again(events: AsyncGenerator[Event]) -> AsyncGenerator[bytes]:
    """Write them as a stream."""
    framing = NamedFraming()
    try:
        async for event in events:
            yield framing.event(event)
    except NotRemembered:
        message = "this stream is not remembered any more: read the response again, without `starting_after`"
        yield framing.failed(BadRequest(503, message, None, "unavailable"))
    except (BusError, TimeoutError) as error:
        log.warning("stream broken off: %s", error)
        yield framing.failed(BadRequest(503, "the event bus does not answer: read it again", None, "unavailable"))
