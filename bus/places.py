"""Where a thread's events have come to, as far as that must be known to follow the next, and what one changes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any, NamedTuple

import msgspec

Delta = Mapping[str, Any]
"""Column to what an event says of it: what is to be added to a count, or the value from here on."""


class UsageKey(NamedTuple):
    """Whose usage, and when."""

    agent: str
    """Empty for a bare generation."""
    model: str
    day: date
    """UTC, of the event."""


class Change(NamedTuple):
    """What one event changes."""

    thread: Delta
    runs: tuple[tuple[str, Delta], ...] = ()
    """By the run's id."""
    usage: tuple[tuple[UsageKey, Delta], ...] = ()
    schedule: Delta = {}  # noqa: RUF012  a named tuple's, and never changed
    """Of the thread, where it is one."""
    batch: Delta = {}  # noqa: RUF012  likewise
    """Of the thread, where it is one."""


class OpenRun(msgspec.Struct, frozen=True, array_like=True):
    """A run, or bare generation, that is not over."""

    agent: str
    model: str
    asked: int
    """When, microseconds since the Unix epoch."""
    status: str
    """`queued`, `running` or `waiting`."""
    waits: int = 0
    """Tool calls that wait for somebody."""


class Place(msgspec.Struct, frozen=True, array_like=True):
    """What must be known of a thread to follow its next event."""

    runs: dict[str, OpenRun] = {}
    forking: bool = False
    """Whether its events are still those of the thread that it was forked from."""
    stopped: str = ""
    """Why its events are not followed any more; empty while they are."""
    roots: dict[str, tuple[str, str]] = {}
    """By a run that is still to begin: the thread and run that it is for, where another agent asked for it."""
    erased: bool = False
    """Whether some cannot be read any more: what follows from them is not known."""


AT_REST = Place()
