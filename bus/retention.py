"""Step records expire: whole days of them, once they are older than they are to be kept. Threads stay."""

from __future__ import annotations

from typing import NamedTuple

from bus.partitions import EXPIRING, Partition, Partitions, drop, orphans, partitions
from bus.store import Store
from schemas.times import DAY

AHEAD = 2
"""Days after this one whose partitions are made before they are needed."""
_STEPS = "steps"
_LOCK = 0x72657461  # "reta": one process at a time drops partitions


class Expired(NamedTuple):
    """A day of records, or all before it, that was dropped or would be."""

    name: str
    """Of the partition."""
    begins: int
    """Microseconds since the Unix epoch; 0 for the one that holds all before."""
    ends: int
    rows: int
    bytes: int
    """On the disk, with indexes."""


async def expire_steps(store: Store, now: int, keep: int) -> list[Expired]:
    """Drop the step records of every day (UTC) that ended more than `keep` ago, and say what went.

    Safe to run at any time and by several processes at once; one that was broken off is finished by the next.

    Args:
        store: the record.
        now: microseconds since the Unix epoch.
        keep: microseconds.

    Raises:
        Unavailable: Postgres cannot be reached, or somebody reads what is to go for very long; what is left goes the
            next time.
    """
    async with store.transaction() as connection:
        # This connection holds the lock, others do the work: a partition cannot be detached in a transaction. A value
        # in the text and no parameter: what takes parameters would keep its snapshot, which detaching waits for
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        old = await _old(store, now - keep)
        found = [await _measured(store, partition) for partition in old]
        if old:
            # said before it is true: whoever finds nothing must find out why
            await store.rows(_EXPIRE, _STEPS, max(partition.ends for partition in old))
        for partition in old:
            await drop(store, partition)
        for name in await orphans(store):
            await store.rows(f"DROP TABLE IF EXISTS {name}")  # ours, by its name
    return found


async def expiring_steps(store: Store, now: int, keep: int) -> list[Expired]:
    """Say what `expire_steps` would drop.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    return [await _measured(store, partition) for partition in await _old(store, now - keep)]


async def steps_gone_before(store: Store) -> int:
    """Return the time, microseconds since the Unix epoch, before which step records have expired; 0 if none have.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    rows = await store.rows("SELECT until FROM retention WHERE name = $1", _STEPS)
    found: int = rows[0]["until"] if rows else 0
    return found


async def prepare_partitions(store: Store, now: int) -> None:
    """Make the partitions of today and of the days after it, so that the recorder finds them made.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    today = now // DAY
    for table in EXPIRING:
        await Partitions(store).make(table, range(today, today + AHEAD + 1))


async def _old(store: Store, until: int) -> list[Partition]:
    return [partition for table in EXPIRING for partition in await partitions(store, table) if partition.ends <= until]


async def _measured(store: Store, partition: Partition) -> Expired:
    (row,) = await store.rows(
        f"SELECT count(*) AS rows, pg_total_relation_size('{partition.name}') AS bytes FROM {partition.name}"
    )
    return Expired(partition.name, partition.begins, partition.ends, row["rows"], row["bytes"])


_EXPIRE = """
INSERT INTO retention (name, until) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET until = greatest(retention.until, excluded.until)
"""
