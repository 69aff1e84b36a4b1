"""Performs what schedules ask for: waits until they are due, and sends their commands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any

from actors.errors import NotNow
from actors.runtime.machine import Asked, Effect
from actors.runtime.performer import Site
from actors.runtime.waiting import wait_until
from actors.schedules.cron import zone_of
from actors.schedules.machine import AwaitDue, CloseSchedule, EraseSchedule, ScheduleState, SendRun
from bus.errors import BadSubject, Refused
from schemas.commands import Command
from schemas.context import Clock
from schemas.runs import Event, Problem
from schemas.schedules import AddSchedule, ScheduleClosed, ScheduleDue, ScheduleErased, ScheduleSent

Send = Callable[[Command], Awaitable[None]]
Erase = Callable[[str, str, str | None], Awaitable[int]]
"""Erases a tenant's schedule that was sealed with a key; gives how many of its events are in the log unsealed."""
Until = Callable[[int], Awaitable[None]]
"""Waits until a time, microseconds since the Unix epoch."""


class SchedulePerformer:
    """The `Performer` of schedules."""

    def __init__(
        self, agents: Collection[str], send: Send, clock: Clock, until: Until | None = None, erase: Erase | None = None
    ) -> None:
        """Make it.

        Args:
            agents: those that there are.
            send: publishes a command; safe to repeat.
            clock: says whether it is time.
            until: waits for that, by the clock unless given.
            erase: destroys the key of one that was removed, as often as it is asked to; nothing does, unless given.
        """
        self._agents = agents
        self._send = send
        self._clock = clock
        self._until = until or partial(wait_until, clock)
        self._erase = erase

    async def look_up(self, command: Command, state: Any = None) -> Asked:
        """See that there is the agent that is to be asked.

        Raises:
            NotNow: its key is being destroyed: what is said now would be sealed with it.
        """
        if isinstance(state, ScheduleState) and state.removed and not state.erased:
            raise NotNow(f"schedule {state.id!r} is being erased")
        data = command.data
        if not isinstance(data, AddSchedule):
            return Asked(command)
        await asyncio.to_thread(zone_of, data.schedule.timezone)  # decisions read no files
        if data.schedule.agent in self._agents:
            return Asked(command)
        known = ", ".join(sorted(self._agents)) or "none"
        message = f"no agent {data.schedule.agent!r}: there are {known}"
        return Asked(command, missing=Problem(kind="unknown_agent", message=message, field="agent"))

    def resumption(self, effect: Effect) -> Event | None:
        """Note nothing: waiting and sending may both be done again."""
        return None

    def must_finish(self, effect: Effect) -> bool:
        """Leave all of it to the next owner."""
        return False

    async def abort(self, effect: Effect, site: Site) -> None:
        """Have nothing to stop elsewhere."""

    async def perform(self, effect: Effect, site: Site, again: bool) -> Event:
        """Wait, or send."""
        match effect:
            case AwaitDue(id=identity, at=at, timezone=timezone):
                await asyncio.to_thread(zone_of, timezone)
                await self._until(at)
                return ScheduleDue(effect=identity, at=max(at, self._clock.now()))
            case SendRun(id=identity, command=command):
                return ScheduleSent(effect=identity, problem=await self._sent(command))
            case CloseSchedule(id=identity, commands=commands, by_hand=by_hand):
                return ScheduleClosed(effect=identity, commands=commands, by_hand=by_hand)
            case EraseSchedule(id=identity):
                erase = self._erase
                left = 0 if erase is None else await erase(site.tenant, site.thread, site.seal)
                return ScheduleErased(effect=identity, unsealed=left)
            case _:
                raise AssertionError(f"not an effect of a schedule: {effect!r}")

    async def _sent(self, command: Command) -> str:
        try:
            await self._send(command)
        except Refused as refusal:
            if not refusal.too_large:
                raise
            return str(refusal)
        except BadSubject as error:
            return str(error)
        return ""
