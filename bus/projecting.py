"""One batch of events into the projections: read from a cursor on, folded, and written together with the cursor's move.

It is written only if the cursor still is where it was: whoever else moved it has done the same. So a second projector
does no harm, and nothing is kept in memory that cannot be read again. The recorder's transactions know nothing of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg

from bus.errors import NoMasterKey
from bus.following import WHOLE, follow
from bus.places import AT_REST, Change, Place
from bus.projections import PROJECTIONS, Collected, Projection, merge
from bus.store import Store, StoredEvent, read_events
from bus.streams import EV
from schemas import codec

PAGE = 2_000
"""Events of a batch."""
PAGE_BYTES = 8 << 20
"""Payload that a batch holds, unless a single event has more."""
_TURN = 200
"""Events that are folded before others of this process have their turn."""
_WHOLE_ENVELOPE = 2**31 - 1

_Thread = tuple[str, str]


class At(NamedTuple):
    """A place in the recorded log: everything up to it is taken."""

    incarnation: int
    sequence: int
    idx: int = _WHOLE_ENVELOPE


class Build(NamedTuple):
    """A projection as it was made, or is being made."""

    name: str
    number: int
    at: At
    code: str = ""
    """What it was made by; empty while it is being made, or when it is to be made again."""

    @property
    def cursor(self) -> str:
        """The name of its cursor."""
        return f"projection.{self.name}.{self.number}"


async def live_builds(store: Store) -> tuple[list[Build], At]:
    """Return the builds that are read, and where the record ends.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    builds, end = [], At(1, 0)
    for row in await store.rows(_LIVE, EV):
        if row["name"] is None:
            end = place(row)
        else:
            builds.append(Build(row["name"], row["build"], place(row), row["code"]))
    return builds, end


def furthest_behind(behind: Sequence[Build], end: At) -> tuple[list[Build], At]:
    """Choose the builds that go on together, and how far they may: to where the next one is."""
    last = min(build.at for build in behind)
    others = [build.at for build in behind if build.at > last]
    return [build for build in behind if build.at == last], min(others, default=end)


async def advance(store: Store, builds: Sequence[Build], until: At, page: int = PAGE) -> bool:
    """Take the next batch into builds that have taken the same so far.

    Args:
        store: the record.
        builds: all at one place.
        until: how far at most; not further than the record's end.
        page: how many events the batch may have.

    Returns:
        False if somebody else has moved one of them meanwhile; nothing was written then.

    Raises:
        NoMasterKey: an event is sealed, and the store has no keys.
        Unavailable: Postgres cannot be reached.
    """
    events, end = await _read(store, builds[0].at, until, page)
    before = await _places(store, builds[0], events)
    after, rows = await _folded(builds, events, before)
    changed = {key: found for key, found in after.items() if found != before.get(key, AT_REST)}
    async with store.transaction() as connection:
        if not await _move(connection, builds, end):
            return False
        await _keep_places(connection, builds, changed)
        for build in builds:
            await _keep_rows(connection, build, PROJECTIONS[build.name], rows[build.name])
    return True


def fold(places: dict[_Thread, Place], rows: Mapping[str, Collected], events: Sequence[StoredEvent]) -> None:
    """Fold events into places and into the rows of projections, by their names."""
    for stored in events:
        key = (stored.fact.tenant, stored.fact.thread)
        change: Change
        places[key], change = follow(places.get(key, AT_REST), stored)
        for name, collected in rows.items():
            merge(PROJECTIONS[name], collected, stored, change)


async def _folded(
    builds: Sequence[Build], events: Sequence[StoredEvent], before: Mapping[_Thread, Place]
) -> tuple[dict[_Thread, Place], dict[str, Collected]]:
    places, rows = dict(before), {build.name: Collected() for build in builds}
    for start in range(0, len(events), _TURN):
        fold(places, rows, events[start : start + _TURN])
        await asyncio.sleep(0)
    return places, rows


async def _read(store: Store, after: At, until: At, page: int) -> tuple[list[StoredEvent], At]:
    """Read events of threads, and say how far that goes: whole envelopes, unless one is larger than a page."""
    rows = await store.rows(_PAGE, *after, *until, page, PAGE_BYTES, list(WHOLE))
    end = until
    if rows and (rows[0]["found"] == page or len(rows) < rows[0]["found"]):
        last = rows[-1]["incarnation"], rows[-1]["seq"]
        whole = [row for row in rows if (row["incarnation"], row["seq"]) != last]
        rows = whole or rows
        end = At(rows[-1]["incarnation"], rows[-1]["seq"], _WHOLE_ENVELOPE if whole else rows[-1]["idx"])
    rows = [row for row in rows if row["thread"]]
    if store.keys is None and (sealed := next((row["key_id"] for row in rows if row["payload"][:1] == b'"'), None)):
        # a thread whose events nobody here can read would be kept as one that cannot be followed
        raise NoMasterKey(sealed)
    return await read_events(store, rows), end


async def _places(store: Store, build: Build, events: Sequence[StoredEvent]) -> dict[_Thread, Place]:
    threads = {(stored.fact.tenant, stored.fact.thread) for stored in events}
    rows = await store.rows(_PLACES, build.number, *_columns(threads))
    return {(row["tenant"], row["thread"]): codec.decode(row["state"], Place) for row in rows}


async def _move(connection: Any, builds: Sequence[Build], end: At) -> bool:
    """Move the cursors, if all are where they were. Their rows' locks make a rival wait until we are done."""
    names = [build.cursor for build in builds]
    rows = await connection.fetch(f"{CURSORS} ORDER BY name FOR UPDATE", names)
    if {row["name"]: place(row) for row in rows} != {build.cursor: build.at for build in builds}:
        return False
    await connection.execute("UPDATE cursor SET incarnation = $2, seq = $3, idx = $4 WHERE name = ANY($1)", names, *end)
    return True


async def _keep_places(connection: Any, builds: Sequence[Build], places: Mapping[_Thread, Place]) -> None:
    numbers = [build.number for build in builds]
    under_way = {key: found for key, found in places.items() if found != AT_REST}
    at_rest = [key for key in places if key not in under_way]
    if under_way:
        states = [codec.encode(found) for found in under_way.values()]
        await connection.execute(_KEEP_PLACES, numbers, *_columns(under_way), states)
    if at_rest:
        await connection.execute(_DROP_PLACES, numbers, *_columns(at_rest))


async def _keep_rows(connection: Any, build: Build, projection: Projection, rows: Collected) -> None:
    if rows:
        await connection.execute(projection.upsert, build.number, *projection.arrays(rows))


def place(row: asyncpg.Record) -> At:
    """Read where a cursor is."""
    return At(row["incarnation"], row["seq"], row["idx"])


def _columns(threads: Collection[_Thread]) -> tuple[list[str], list[str]]:
    return [tenant for tenant, _ in threads], [thread for _, thread in threads]


CURSORS = "SELECT name, incarnation, seq, idx FROM cursor WHERE name = ANY($1)"

_LIVE = """
SELECT projection.name, build, code, incarnation, seq, idx FROM cursor
LEFT JOIN projection ON cursor.name = 'projection.' || projection.name || '.' || build
WHERE projection.name IS NOT NULL OR cursor.name = $1 ORDER BY 1
"""

# `found` is more than what comes where the payloads are too much for one batch; the first event always comes
_PAGE = """
WITH page AS MATERIALIZED (
    SELECT incarnation, seq, idx, tenant, thread, kind, entity, version, type, cause, time, traceparent, key_id,
        CASE WHEN type = ANY($9) THEN payload ELSE '' END AS payload, row_number() OVER place AS number,
        sum(CASE WHEN type = ANY($9) THEN octet_length(payload) ELSE 0 END) OVER place AS held
    FROM event WHERE (incarnation, seq, idx) > ($1, $2, $3) AND (incarnation, seq, idx) <= ($4, $5, $6)
    WINDOW place AS (ORDER BY incarnation, seq, idx) ORDER BY incarnation, seq, idx LIMIT $7
)
SELECT *, (SELECT count(*) FROM page) AS found FROM page WHERE held <= $8 OR number = 1
ORDER BY incarnation, seq, idx
"""

_PLACES = """
SELECT tenant, thread, state FROM projection_state JOIN unnest($2::text[], $3::text[]) AS asked (tenant, thread)
USING (tenant, thread) WHERE build = $1
"""

_KEEP_PLACES = """
INSERT INTO projection_state (build, tenant, thread, state)
SELECT build, made.* FROM unnest($1::bigint[]) AS build, unnest($2::text[], $3::text[], $4::bytea[]) AS made
ON CONFLICT (build, tenant, thread) DO UPDATE SET state = excluded.state
"""

_DROP_PLACES = """
DELETE FROM projection_state USING unnest($2::text[], $3::text[]) AS gone (tenant, thread)
WHERE build = ANY($1) AND projection_state.tenant = gone.tenant AND projection_state.thread = gone.thread
"""
