"""Schedules: what is to be asked of an agent, and when; commands on `in.<tenant>.schedule.<id>.<verb>`, and events.

A schedule is a thread of its own: its id is the thread's. Times are microseconds since the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from schemas.memory import Resource
from schemas.wire import Wire

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=65_536)]
_Most = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class Schedule(Wire, frozen=True):
    """What is asked, and when."""

    cron: Annotated[str, msgspec.Meta(max_length=200)]
    """Minute, hour, day of the month, month, day of the week, as Debian's cron reads them."""
    agent: str
    text: _Text
    timezone: Annotated[str, msgspec.Meta(max_length=64)] = "UTC"
    """An IANA name, such as `Europe/Vienna`."""
    thread: str = ""
    """Where every fire asks; empty begins a thread for each."""
    missed: Literal["skip", "once", "all"] = "once"
    """What becomes of fires that nobody was there for: none is made up for, the last one, or up to `most`."""
    most: _Most = 10
    """The last so many, of those that were missed, where `all` are made up for."""
    context: Mapping[str, Any] = {}
    """As of `schemas.commands.RunAgent`."""
    resource: Resource = ""


class AddSchedule(Wire, frozen=True, tag="add"):
    """Begin a schedule, or put another in its place. `in.<tenant>.schedule.<id>.add`."""

    schedule: Schedule


class PauseSchedule(Wire, frozen=True, tag="pause"):
    """Fire no more until `unpause`. `in.<tenant>.schedule.<id>.pause`."""


class UnpauseSchedule(Wire, frozen=True, tag="unpause"):
    """Go on from now: what was due meanwhile is not missed. `in.<tenant>.schedule.<id>.unpause`."""


class FireSchedule(Wire, frozen=True, tag="fire"):
    """Fire now, beside what is due. `in.<tenant>.schedule.<id>.fire`."""


class RemoveSchedule(Wire, frozen=True, tag="remove"):
    """End a schedule. `in.<tenant>.schedule.<id>.remove`."""


ScheduleCommand = AddSchedule | PauseSchedule | UnpauseSchedule | FireSchedule | RemoveSchedule


class ScheduleAdded(Wire, frozen=True, tag="schedule.added"):
    """The schedule is this one from here on."""

    schedule: Schedule


class SchedulePlanned(Wire, frozen=True, tag="schedule.planned"):
    """When it fires next was worked out."""

    at: int
    """From when on."""
    next: int | None = None
    """None is never."""


class SchedulePaused(Wire, frozen=True, tag="schedule.paused"):
    """It fires no more until it is unpaused; `schedule.planned` follows then."""

    by: str = ""
    """Source of the command."""


class ScheduleDue(Wire, frozen=True, tag="schedule.due"):
    """The time to fire has come."""

    effect: str
    """Structural: `<schedule>-<seconds since the Unix epoch>`, of when it was due."""
    at: int
    """When that was seen."""


class ScheduleFired(Wire, frozen=True, tag="schedule.fired"):
    """The intention to ask the agent. Logged before the command leaves."""

    run: str
    """Id of the command and its run. Structural, as of `schedule.due`: whoever sends it twice has it decided once."""
    thread: str
    due: int
    by: str = ""
    """Source of the command that wanted it now."""


class ScheduleMissed(Wire, frozen=True, tag="schedule.missed"):
    """Fires were due when nobody was there, and are not made up for."""

    first: int
    """When the first of them was due."""
    before: int
    """They were due before this."""


class ScheduleSent(Wire, frozen=True, tag="schedule.sent"):
    """The command is on its way: it is durable."""

    effect: str
    """The run."""
    problem: str = ""
    """Why the bus did not take it."""


class ScheduleRemoved(Wire, frozen=True, tag="schedule.removed"):
    """The schedule is over. Never sealed: it says of what is erased that it is."""

    by: str = ""


class ScheduleClosed(Wire, frozen=True, tag="schedule.closed"):
    """All that it fired is sent, and this is what outlives its key, which is destroyed next. Never sealed."""

    effect: str
    """Structural: `<schedule>-c`."""
    commands: tuple[str, ...] = ()
    """Ids of the commands that it had heeded: one that comes again is still known."""
    by_hand: int = 0
    """Fires that somebody had wanted: runs that are wanted later are other ones."""


class ScheduleErased(Wire, frozen=True, tag="schedule.erased"):
    """What it asked cannot be read any more, in any copy: its key was destroyed. Added again it has another key."""

    effect: str
    """Structural: `<schedule>-e`."""
    unsealed: int = 0
    """Events of it that are in the log unsealed, from before schedules were: they can still be read."""


ScheduleEvent = (
    ScheduleAdded
    | SchedulePlanned
    | SchedulePaused
    | ScheduleDue
    | ScheduleFired
    | ScheduleMissed
    | ScheduleSent
    | ScheduleRemoved
    | ScheduleClosed
    | ScheduleErased
)
