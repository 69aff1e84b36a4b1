"""Partitions by day of the tables whose rows expire: made as they are needed, dropped as a whole.

Nothing here takes a lock that a writer waits for. A partition is made as a table of its own and attached; it is
detached concurrently, which waits for those who read it, and dropped then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import asyncpg

from bus.errors import Unavailable
from bus.store import Rows, Store
from schemas.times import DAY, utc

EXPIRING = ("record", "step_request")
"""Tables whose rows expire, by their column `time`."""

_LOCK = 0x70617274  # "part": one process at a time makes partitions
_BOUND = re.compile(r"FROM \((MINVALUE|'\d+')\) TO \('(\d+)'\)")


class Partition(NamedTuple):
    """One partition of a table."""

    table: str
    name: str
    begins: int
    """Microseconds since the Unix epoch; 0 for the one that holds all before."""
    ends: int
    """The first microsecond that is not in it."""
    leaving: bool
    """Whether it was being detached when somebody was interrupted."""


class Partitions:
    """Sees that every row has a partition to go to; remembers which there are."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: set[tuple[str, int]] = set()
        """Tables and days, counted from the epoch."""

    async def make(self, table: str, days: Iterable[int]) -> None:
        """Make the partitions of these days, counted from the Unix epoch, where they are missing.

        Raises:
            Unavailable: Postgres cannot be reached, or one is just being dropped.
        """
        for _, day in sorted({(table, day) for day in days} - self._known):
            await _make(self._store, table, day * DAY)
            self._known.add((table, day))

    async def make_for(self, table: str, rows: Rows, column: int) -> None:
        """Make the partitions for rows whose time is in a column, where they are missing.

        Raises:
            Unavailable: Postgres cannot be reached, or one is just being dropped.
        """
        await self.make(table, {row[column] // DAY for row in rows})

    def forget(self) -> None:
        """Somebody dropped one: look again."""
        self._known.clear()


async def partitions(store: Store, table: str) -> list[Partition]:
    """List a table's partitions, the oldest first.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    found = [_partition(table, row) for row in await store.rows(_PARTITIONS, table)]
    return sorted(found, key=lambda partition: partition.begins)


async def drop(store: Store, partition: Partition) -> None:
    """Drop a partition with all that is in it; one whose dropping was interrupted, too.

    Raises:
        Unavailable: Postgres cannot be reached, or somebody reads the partition for very long; drop it again.
    """
    how = "FINALIZE" if partition.leaving else "CONCURRENTLY"
    await store.rows(f"ALTER TABLE {partition.table} DETACH PARTITION {partition.name} {how}")
    await store.rows(f"DROP TABLE {partition.name}")


async def orphans(store: Store) -> list[str]:
    """Name tables that were detached and not dropped.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    return [row["name"] for row in await store.rows(_ORPHANS, list(EXPIRING))]


async def oldest_sequence(store: Store) -> int:
    """Return the lowest sequence of a trace message that is still recorded; 0 if none is.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    (row,) = await store.rows("SELECT coalesce(min(seq), 0) AS oldest FROM record")
    found: int = row["oldest"]
    return found


async def _make(store: Store, table: str, begins: int) -> None:
    name = f"{table}_{utc(begins):%Y%m%d}"
    async with store.transaction() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        there = [_partition(table, row) for row in await connection.fetch(_PARTITIONS, table)]
        for partition in there:
            if partition.begins <= begins < partition.ends:
                if partition.leaving:
                    raise Unavailable(f"partition {partition.name!r} of Postgres is being dropped")
                return
        # both names are ours; a table of this name was detached by somebody who did not get to drop it
        await connection.execute(f"DROP TABLE IF EXISTS {name}")
        await connection.execute(f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING INDEXES)")
        await connection.execute(
            f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({begins}) TO ({begins + DAY})"
        )


def _partition(table: str, row: asyncpg.Record) -> Partition:
    bounds = _BOUND.search(row["bound"])
    assert bounds is not None, f"partition {row['name']!r} is not ours: {row['bound']}"
    begins = 0 if bounds[1] == "MINVALUE" else int(bounds[1].strip("'"))
    return Partition(table, row["name"], begins, int(bounds[2]), row["leaving"])


_PARTITIONS = """
SELECT child.relname AS name, pg_get_expr(child.relpartbound, child.oid) AS bound, inhdetachpending AS leaving
FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
WHERE inhparent = to_regclass($1)
"""

_ORPHANS = """
SELECT relname AS name FROM pg_class
WHERE relkind = 'r' AND NOT relispartition AND relnamespace = current_schema()::regnamespace
AND relname ~ ('^(' || array_to_string($1::text[], '|') || ')_(first|[0-9]{8})$')
ORDER BY relname
"""
