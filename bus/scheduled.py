"""What a schedule's events mean for the book that is kept of it; and that book, read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bus.columns import whole
from bus.store import Store, StoredEvent
from schemas import codec
from schemas.runs import Event
from schemas.schedules import Schedule, ScheduleAdded, SchedulePlanned


class ScheduleRow(NamedTuple):
    """How a schedule stands. Times are microseconds since the Unix epoch."""

    tenant: str
    id: str
    schedule: Schedule
    status: str
    """`active`, `paused`, `over` (never due again) or `removed`."""
    next: int | None
    """When it fires next."""
    fired: int
    """How often it has."""
    last: int | None
    """When it fired last."""


def added(event: ScheduleAdded) -> Mapping[str, Any]:
    """Say what a schedule is from here on."""
    return {"schedule": whole(codec.encode(event.schedule).decode()), "status": "active", "next": 0}


def planned(event: SchedulePlanned) -> Mapping[str, Any]:
    """Say when it fires next; 0 is never."""
    return {"status": "over" if event.next is None else "active", "next": event.next or 0}


def fired(stored: StoredEvent) -> Mapping[str, Any]:
    """Count a fire."""
    return {"fired": 1, "last": stored.time}


def paused(stored: StoredEvent) -> Mapping[str, Any]:
    """Say that it fires no more."""
    return {"status": "paused", "next": 0}


def removed(stored: StoredEvent) -> Mapping[str, Any]:
    """Say that it is over."""
    return {"status": "removed", "next": 0}


WHOLE: Mapping[str, Callable[[Any], Mapping[str, Any]]] = {"schedule.added": added, "schedule.planned": planned}
"""Events that are read whole."""
BY_TYPE: Mapping[str, Callable[[StoredEvent], Mapping[str, Any]]] = {
    "schedule.fired": fired,
    "schedule.paused": paused,
    "schedule.removed": removed,
}
"""Events of which the type says enough."""


def delta(stored: StoredEvent, event: Event | None) -> Mapping[str, Any]:
    """Say what an event changes in the row of its schedule."""
    return BY_TYPE[stored.fact.type](stored) if event is None else WHOLE[stored.fact.type](event)


async def schedules_of(store: Store, tenant: str | None = None) -> list[ScheduleRow]:
    """Return the schedules that are not removed, of a tenant or of all, those that are due next first.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    rows = await store.rows(_SCHEDULES, tenant)
    return [
        ScheduleRow(
            row["tenant"],
            row["thread"],
            codec.decode(row["schedule"].encode(), Schedule),
            row["status"],
            row["next"] or None,
            row["fired"],
            row["last"],
        )
        for row in rows
    ]


_SCHEDULES = """
SELECT tenant, thread, schedule, status, next, fired, last FROM schedules
WHERE status <> 'removed' AND ($1::text IS NULL OR tenant = $1) ORDER BY nullif(next, 0) NULLS LAST, thread
"""
