"""Reads every thread of the log, whole and in order, without ever holding the log in memory.

The threads are cut into spans along the index of table `event`; who reads a span holds its events and no more, and
several may read different spans at once. Threads that grow meanwhile are read as they are when their span is.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from bus.store import Store, StoredEvent, read_events

_BEGIN = ("", "")


class Span(NamedTuple):
    """Neighbouring threads, in the order of tenant and id: those after `after`, up to and including `upto`."""

    after: tuple[str, str]
    upto: tuple[str, str] | None
    """None is to the end."""


async def spans(store: Store, events: int) -> list[Span]:
    """Cut all threads into spans of about `events` events; more where one thread alone has more."""
    found = []
    after = _BEGIN
    while True:
        rows = await store.rows(_STEP, *after, events - 1)
        upto = (rows[0]["tenant"], rows[0]["thread"]) if rows else None
        found.append(Span(after, upto))
        if upto is None:
            return found
        after = upto


async def threads_of(store: Store, span: Span) -> Iterator[list[StoredEvent]]:
    """Read a span: the events of one thread after the other, each in the order of the log."""
    if span.upto is None:
        rows = await store.rows(f"{_READ} {_ORDER}", *span.after)
    else:
        rows = await store.rows(f"{_READ} AND (tenant, thread) <= ($3, $4) {_ORDER}", *span.after, *span.upto)
    events = await read_events(store, rows)
    return ([*own] for _, own in groupby(events, key=lambda event: (event.fact.tenant, event.fact.thread)))


_STEP = """
SELECT tenant, thread FROM event WHERE (tenant, thread) > ($1, $2) AND thread <> ''
ORDER BY tenant, thread OFFSET $3 LIMIT 1
"""
_READ = "SELECT * FROM event WHERE (tenant, thread) > ($1, $2) AND thread <> ''"
_ORDER = "ORDER BY tenant, thread, incarnation, seq, idx"
