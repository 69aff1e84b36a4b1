"""Reads what was recorded since a place: events, and how requests went that are over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bus.store import Store, StoredEvent, read_events
from schemas import codec
from schemas.errors import BadShape
from schemas.steps import Served


class Place(NamedTuple):
    """Where something is recorded: everything up to it is known."""

    incarnation: int
    sequence: int
    idx: int = 0


async def record_end(store: Store) -> tuple[Place, Place]:
    """Say where the record ends: that of events, and that of the trace.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    events = await store.rows("SELECT incarnation, seq, idx FROM event ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT 1")
    records = await store.rows("SELECT incarnation, seq FROM record ORDER BY 1 DESC, 2 DESC LIMIT 1")
    return (Place(*events[0]) if events else Place(0, 0), Place(*records[0]) if records else Place(0, 0))


async def events_after(store: Store, place: Place, most: int) -> list[StoredEvent]:
    """Return the next events, at most so many.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    return await read_events(store, await store.rows(_EVENTS, *place, most))


async def served_after(store: Store, place: Place, most: int) -> list[tuple[Place, str, Served]]:
    """Return the next requests that were over, each with its place and its engine as the subject names it.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    rows = await store.rows(_SERVED, place.incarnation, place.sequence, most)
    found = []
    for row in rows:
        try:
            served: Served = codec.decode(row["payload"], Served)
        except BadShape:
            continue
        found.append((Place(row["incarnation"], row["seq"]), row["subject"].split(".")[1], served))
    return found


async def served_of(store: Store, requests: Sequence[str]) -> list[tuple[str, Served]]:
    """Return how these requests went, each with its engine as the subject names it.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    rows = await store.rows(_SERVED_OF, list(requests))
    return [(row["subject"].split(".")[1], codec.decode(row["payload"], Served)) for row in rows]


_EVENTS = """
SELECT * FROM event WHERE (incarnation, seq, idx) > ($1, $2, $3) ORDER BY incarnation, seq, idx LIMIT $4
"""

_SERVED = """
SELECT incarnation, seq, subject, payload FROM record
WHERE (incarnation, seq) > ($1, $2) AND subject LIKE 'step.%.served' ORDER BY incarnation, seq LIMIT $3
"""

_SERVED_OF = """
SELECT subject, payload FROM record
WHERE subject IN (SELECT DISTINCT 'step.' || engine || '.served' FROM step_request WHERE request = ANY($1))
    AND producer = ANY($1) AND n IS NOT NULL ORDER BY incarnation, seq
"""
