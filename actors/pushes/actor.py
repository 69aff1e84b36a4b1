"""Performs what is said of tasks: waits until one stands otherwise, and tells whoever wants to hear of it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from actors.pushes.machine import PushState, TellOf, WatchTask
from actors.runtime.machine import Asked, Effect
from actors.runtime.performer import Site
from actors.runtime.waiting import wait_until
from schemas.commands import Command
from schemas.context import Clock
from schemas.pushes import PushNoticed, PushTried, SubscribePush
from schemas.runs import Event, Problem

log = logging.getLogger(__name__)

FIRST_S: Final = 1.0
"""Between the first try and the second: twice that before the third, and so on."""
LONGEST_S: Final = 600.0
_AT_ONCE: Final = 64
"""Requests of a process."""
_OF_ONE: Final = 16
"""Of those, of one tenant's: one whose addresses do not answer must not hold up what others are told."""
MOST_WATCHED: Final = 1000
"""Tasks of one tenant that a process watches at once, those aside that it takes over from another."""


class Told(NamedTuple):
    """What came of a try."""

    code: int = 0
    """The HTTP status of the answer; 0 where none came."""
    problem: str = ""
    """Why it failed; holds nothing of what was sent, nor where to."""
    final: bool = False
    """Whether to try again is of no use."""


Watch = Callable[[str, WatchTask], Awaitable[PushNoticed]]
"""Waits until a tenant's task stands otherwise; raises nothing but what breaks its thread."""
Tell = Callable[[str, TellOf], Awaitable[Told]]
"""Tells somebody of a tenant's task, once; raises nothing but what breaks its thread."""
Until = Callable[[int], Awaitable[None]]
"""Waits until a time, microseconds since the Unix epoch."""


class PushPerformer:
    """The `Performer` of what is said of tasks."""

    def __init__(self, watch: Watch, tell: Tell, clock: Clock, attempts: int, until: Until | None = None) -> None:
        """Make it.

        Args:
            watch: waits for changes.
            tell: sends one word of them.
            clock: says whether it is time.
            attempts: after so many tries somebody is given up.
            until: waits for a time, by the clock unless given.
        """
        self._watch = watch
        self._tell = tell
        self._clock = clock
        self._attempts = attempts
        self._until = until or partial(wait_until, clock)
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._places_of = WeakValueDictionary[str, asyncio.Semaphore]()
        self._watched = Counter[str]()

    async def look_up(self, command: Command, state: PushState | None = None) -> Asked:
        """See whether there is room to watch one more task of a tenant's."""
        settled = state is not None and (bool(state.targets) or state.over)
        if settled or not isinstance(command.data, SubscribePush) or self._watched[command.tenant] < MOST_WATCHED:
            return Asked(command)
        message = f"{MOST_WATCHED} tasks are watched already: wait until some are over, or have nobody told of them"
        return Asked(command, missing=Problem(kind="overloaded", message=message, field="target"))

    def resumption(self, effect: Effect) -> Event | None:
        """Note nothing: who was told may be told again."""
        return None

    def must_finish(self, effect: Effect) -> bool:
        """Leave all of it to the next owner."""
        return False

    async def abort(self, effect: Effect, site: Site) -> None:
        """Have nothing to stop elsewhere."""

    async def perform(self, effect: Effect, site: Site, again: bool) -> Event:
        """Wait, or tell."""
        match effect:
            case WatchTask():
                return await self._noticed(site.tenant, effect)
            case TellOf():
                return await self._tried(site.tenant, effect)
            case _:
                raise AssertionError(f"not an effect of a push: {effect!r}")

    async def _noticed(self, tenant: str, effect: WatchTask) -> PushNoticed:
        self._watched[tenant] += 1
        try:
            return await self._watch(tenant, effect)
        finally:
            self._watched[tenant] -= 1
            if not self._watched[tenant]:
                del self._watched[tenant]

    async def _tried(self, tenant: str, effect: TellOf) -> PushTried:
        due = effect.due
        await self._until(due.at)
        own = self._places_of.setdefault(tenant, asyncio.Semaphore(_OF_ONE))
        async with own, self._places:
            told = await self._tell(tenant, effect)
        if not told.problem:
            return PushTried(effect=effect.id, code=told.code)
        again = 0
        if due.attempt < self._attempts and not told.final:
            again = self._clock.now() + round(min(FIRST_S * 2 ** (due.attempt - 1), LONGEST_S) * 1e6)
        log.warning(
            "push %s, try %s of %s%s: %s",
            due.name, due.attempt, self._attempts, "" if again else ", given up", told.problem,
        )  # fmt: skip
        return PushTried(effect=effect.id, code=told.code, problem=told.problem, again=again)
