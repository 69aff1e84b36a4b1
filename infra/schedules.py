"""Schedules of a running stack, for Python programs and the command line: added, listed, paused, fired, removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from bus import subjects
from bus.projector import bring_up
from bus.scheduled import ScheduleRow, schedules_of
from bus.store import Store
from infra.errors import ScheduleUnfit
from schemas.commands import CommandData
from schemas.schedules import (
    AddSchedule,
    FireSchedule,
    PauseSchedule,
    RemoveSchedule,
    Schedule,
    UnpauseSchedule,
)


def schedule_of(**about: Any) -> Schedule:
    """Make a schedule of its fields.

    Raises:
        ScheduleUnfit: one of them does not fit; says which.
    """
    try:
        return msgspec.convert({name: value for name, value in about.items() if value is not None}, Schedule)
    except msgspec.ValidationError as error:
        raise ScheduleUnfit(str(error)) from error


@dataclass(frozen=True, slots=True)
class Schedules:
    """The schedules of one tenant."""

    send: Callable[[str, CommandData], Awaitable[None]]
    """Sends a schedule something, and raises what it is refused with."""
    store: Callable[[], Awaitable[Store]]
    tenant: str

    async def add(self, schedule: str, cron: str, agent: str, text: str, **about: Any) -> None:
        """Have an agent asked by the clock; one of the same id is put in its place.

        Args:
            schedule: its id.
            cron: five fields, as Debian's cron reads them.
            agent: the name of one that the stack serves.
            text: what it is asked.
            about: any other field of `schemas.schedules.Schedule`, such as `timezone`, `thread` or `missed`.

        Raises:
            ScheduleUnfit: a field has a value that it cannot have.
            SettlementRefused: the stack cannot do that; carries the `Problem`.
        """
        wanted = schedule_of(cron=cron, agent=agent, text=text, **about)
        await self._tell(schedule, AddSchedule(schedule=wanted))

    async def pause(self, schedule: str) -> None:
        """Have it fire no more until `resume`."""
        await self._tell(schedule, PauseSchedule())

    async def resume(self, schedule: str) -> None:
        """Have it go on from now: what was due meanwhile is not made up for."""
        await self._tell(schedule, UnpauseSchedule())

    async def run(self, schedule: str) -> None:
        """Have it fire now, beside what is due."""
        await self._tell(schedule, FireSchedule())

    async def remove(self, schedule: str) -> None:
        """End it."""
        await self._tell(schedule, RemoveSchedule())

    async def list(self) -> list[ScheduleRow]:
        """Return them as far as that is recorded, those that are due next first."""
        store = await self.store()
        await bring_up(store)
        return await schedules_of(store, self.tenant)

    async def _tell(self, schedule: str, data: CommandData) -> None:
        await self.send(subjects.checked(schedule, "schedule"), data)
