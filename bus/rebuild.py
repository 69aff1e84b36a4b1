"""Makes projections again from the log's beginning, beside the ones that are read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from bus.errors import BusError, Unavailable
from bus.projecting import CURSORS, PAGE, At, Build, advance, furthest_behind, live_builds, place
from bus.projections import CODE, PROJECTIONS
from bus.store import Store

Told = Callable[[int, int], None]
"""Hears up to which sequence the log is taken, and where it ends."""

_LOCK = 0x72656275  # "rebu": one process at a time makes projections again
_DROPPED = 10_000
"""Rows of an old build that are deleted at once."""


class RebuildBusy(BusError):
    """Somebody else is making projections again."""

    def __init__(self) -> None:
        super().__init__("projections are being made again by another process: wait until it is done")


class Rebuilt(NamedTuple):
    """What a rebuild did."""

    name: str
    rows: int
    incarnation: int
    """Of the last envelope that was taken."""
    sequence: int
    """Of the last envelope that was taken."""


async def rebuild(
    store: Store, names: Collection[str], told: Told = lambda _done, _all: None, page: int = PAGE
) -> list[Rebuilt]:
    """Make projections again; who reads them sees the old ones until the new are complete.

    Args:
        store: the record.
        names: of projections.
        told: hears how far it is.
        page: how many events a batch may have.

    Raises:
        RebuildBusy: somebody else does this already.
        Unavailable: Postgres cannot be reached; what is read is as it was.
    """
    async with store.transaction() as connection:
        # held to the end, whatever becomes of us; `expire_steps` says why it takes no parameter
        if not await connection.fetchval(f"SELECT pg_try_advisory_xact_lock({_LOCK})"):
            raise RebuildBusy
        await _drop_unread(store)
        builds = [await _begin(store, name) for name in names]
        while True:
            builds, end = await _moved(store, builds)
            behind = [build for build in builds if build.at < end]
            if behind:
                told(min(build.at.sequence for build in builds), end.sequence)
                await advance(store, *furthest_behind(behind, end), page)
            elif await _switch(store, builds):
                break
        told(end.sequence, end.sequence)
        done = [Rebuilt(build.name, await _rows(store, build), *build.at[:2]) for build in builds]
        await _drop_unread(store)
    return done


def unfit(builds: Iterable[Build]) -> list[str]:
    """Name the projections that must be made again before they can be read, of the builds that are.

    They are not there, were made by other code, or of events that were mended since.
    """
    fit = {build.name for build in builds if build.code == CODE}
    return [name for name in PROJECTIONS if name not in fit]


async def _begin(store: Store, name: str) -> Build:
    (row,) = await store.rows("INSERT INTO projection_build (name) VALUES ($1) RETURNING number", name)
    build = Build(name, row["number"], At(1, 0))
    await store.claim(build.cursor, "")
    return build


async def _moved(store: Store, builds: Sequence[Build]) -> tuple[list[Build], At]:
    """Return the builds where they are now, and where the record ends."""
    rows = await store.rows(CURSORS, [build.cursor for build in builds])
    places = {row["name"]: place(row) for row in rows}
    if len(places) < len(builds):
        raise Unavailable("the rebuild was broken off, as the record was mended meanwhile: try again")
    _, end = await live_builds(store)
    return [build._replace(at=places[build.cursor]) for build in builds], end


async def _switch(store: Store, builds: Sequence[Build]) -> bool:
    """Have the builds read from now on, unless those that are read now have got further, or it was broken off."""
    async with store.transaction() as connection:
        live = {row["name"]: place(row) for row in await connection.fetch(_LIVE)}
        own = await connection.fetch(f"{CURSORS} ORDER BY name FOR UPDATE", [build.cursor for build in builds])
        if len(own) < len(builds) or any(build.at < live.get(build.name, build.at) for build in builds):
            return False
        for build in builds:
            await connection.execute(_SEEN, build.name, build.number, CODE)
    return True


async def _rows(store: Store, build: Build) -> int:
    table = PROJECTIONS[build.name].table  # a name of ours
    (row,) = await store.rows(f"SELECT count(*) AS rows FROM {table} WHERE build = $1", build.number)
    found: int = row["rows"]
    return found


async def _drop_unread(store: Store) -> None:
    """Delete the builds that are neither read nor being made: who makes one holds the lock."""
    for row in await store.rows(_UNREAD):
        number, projection = row["number"], PROJECTIONS.get(row["name"])
        # the cursor first: nobody can write to the build then
        await store.rows("DELETE FROM cursor WHERE name = $1", Build(row["name"], number, At(1, 0)).cursor)
        for table in ("projection_state", *([projection.table] if projection is not None else [])):
            while await store.rows(_DROP_ROWS.format(table=table), number, _DROPPED):
                pass
        await store.rows("DELETE FROM projection_build WHERE number = $1", number)


_UNREAD = "SELECT number, name FROM projection_build WHERE number NOT IN (SELECT build FROM projection)"

# locked, so that what is read now cannot get further while we look
_LIVE = """
SELECT projection.name, incarnation, seq, idx FROM projection
JOIN cursor ON cursor.name = 'projection.' || projection.name || '.' || build
ORDER BY projection.name FOR UPDATE
"""

_SEEN = """
INSERT INTO projection (name, build, code) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET build = excluded.build, code = excluded.code
"""

_DROP_ROWS = """
WITH gone AS (
    DELETE FROM {table} WHERE ctid IN (SELECT ctid FROM {table} WHERE build = $1 LIMIT $2) RETURNING 1
)
SELECT 1 FROM gone LIMIT 1
"""
