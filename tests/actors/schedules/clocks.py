"""A clock that is set by hand, and wakes who waits; and a process's worth of owners that fire by it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from actors.machines import MACHINES
from actors.runtime.shard import Runtime
from actors.schedules.actor import Erase, SchedulePerformer, Send
from actors.testing import FixedClock
from bus.commands import send_command
from schemas.commands import Command
from schemas.schedules import AddSchedule, Schedule, ScheduleCommand
from tests.actors.runtime.bench import Bench

NOON = 1_767_268_800_000_000
HOUR = 3_600_000_000


@dataclass
class Alarm(FixedClock):
    """A clock that somebody sets."""

    microseconds: int = NOON
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    def set(self, microseconds: int) -> None:
        """Be at another time from here on."""
        self.microseconds = microseconds
        self._moved.set()
        self._moved = asyncio.Event()

    async def until(self, at: int) -> None:
        """Wait until it is set to a time, or later."""
        while self.microseconds < at:
            await self._moved.wait()


def firing(
    bench: Bench,
    process: str,
    clock: Alarm,
    send: Send | None = None,
    agents: Sequence[str] = (),
    erase: Erase | None = None,
) -> Runtime:
    """Make one process's worth of owners that know schedules."""
    runtime = bench.runtime(process)
    performer = SchedulePerformer(
        ["demo", *agents], send or partial(send_command, bench.connection), clock, clock.until, erase
    )
    performers = {**runtime.performers, "schedule": performer}
    return replace(runtime, clock=clock, machines=MACHINES, performers=performers)


def about(identity: str, data: ScheduleCommand, schedule: str = "hourly") -> Command:
    """Make a command to a schedule."""
    verb = str(data.__struct_config__.tag)
    return Command(id=identity, tenant="acme", kind="schedule", thread=schedule, verb=verb, data=data, source="test")


def adding(identity: str = "s1", **fields: str) -> Command:
    """Make the command that adds an hourly one."""
    return about(identity, AddSchedule(Schedule("0 * * * *", "demo", "What is new?", **fields)))  # type: ignore[arg-type]
