"""What a schedule's events mean for the book that is kept of it; and that book, read.

The book says how a schedule stands, and which event says what it is: texts are sealed, and stand nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bus.store import Store, StoredEvent, read_events
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


def added(stored: StoredEvent) -> Mapping[str, Any]:
    """Say where it stands what a schedule is from here on."""
    return {"schedule": f"{stored.incarnation}/{stored.sequence}/{stored.idx}", "status": "active", "next": 0}


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


WHOLE: Mapping[str, Callable[[Any], Mapping[str, Any]]] = {"schedule.planned": planned}
"""Events that are read whole."""
BY_TYPE: Mapping[str, Callable[[StoredEvent], Mapping[str, Any]]] = {
    "schedule.added": added,
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
        SchemaError: what one is cannot be read, or it is sealed, and the store was opened without the master key.
    """
    rows = await store.rows(_SCHEDULES, tenant)
    found = []
    for row, stored in zip(rows, await read_events(store, rows), strict=True):
        if codec.is_erased(stored.fact.payload):
            continue  # it was removed a moment ago
        event = codec.event_of(stored.fact)
        assert isinstance(event, ScheduleAdded)
        about = (event.schedule, row["status"], row["next"] or None, row["fired"], row["fired_last"])
        found.append(ScheduleRow(row["tenant"], row["entity"], *about))
    return found


_SCHEDULES = """
SELECT event.*, status, next, fired, schedules.last AS fired_last FROM schedules JOIN event
ON incarnation = split_part(schedule, '/', 1)::integer AND seq = split_part(schedule, '/', 2)::bigint
    AND idx = split_part(schedule, '/', 3)::integer
WHERE status <> 'removed' AND ($1::text IS NULL OR schedules.tenant = $1)
ORDER BY nullif(next, 0) NULLS LAST, schedules.thread
"""
