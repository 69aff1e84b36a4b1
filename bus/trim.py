"""Lets JetStream forget the old part of the log, which Postgres has: never what is not recorded, nor a shard's end.

What is trimmed exists once, in Postgres. Everything that reads the log from its beginning goes there for it.
"""

from __future__ import annotations

from typing import NamedTuple

from bus.batch import next_on_leader
from bus.connection import Connection
from bus.errors import LogDamaged
from bus.inspection import bounds_of, trimmed_to
from bus.store import Store
from bus.streams import EV
from bus.subjects import EVENTS


class Trimmed(NamedTuple):
    """What was done, or would be."""

    first: int
    """Sequence that the stream begins at now."""
    envelopes: int
    """How many were let go."""
    held_by: str
    """Why no more could go, if anything but their age; else empty."""


async def trim(connection: Connection, store: Store, before: int, dry: bool = False) -> Trimmed:
    """Let envelopes go that are older than `before`, recorded, behind every shard's checkpoint, and not its last.

    A shard in which nothing happens holds back the others: its last envelope stays, and the stream is cut at one place.

    Args:
        connection: to NATS.
        store: the record.
        before: microseconds since the Unix epoch.
        dry: only say what would go.

    Raises:
        LogDamaged: the stream has lost more of its beginning than was trimmed.
        Unavailable: a server cannot be reached; trimming again goes on.
        TimeoutError: NATS does not answer.
    """
    bounds = await bounds_of(connection)
    done = await trimmed_to(store)
    if bounds.first > done + 1:
        problem = f"it begins there, and was trimmed up to {done}: run `ostinato log verify`"
        raise LogDamaged(EV, bounds.first, problem)
    limit, held_by = await _limit(store)
    until = await _first_since(connection, before, bounds.first, limit + 1) - 1
    if until < bounds.first:
        return Trimmed(bounds.first, 0, held_by)
    counted = until - bounds.first + 1
    if not dry:
        await store.rows(_NOTE, EV, until)
        await connection.api(f"STREAM.PURGE.{EV}", {"seq": until + 1}, timeout_s=30)
    return Trimmed(until + 1, counted, held_by if until == limit else "")


async def _limit(store: Store) -> tuple[int, str]:
    """Return the last sequence that may go, and what holds the rest."""
    rows = await store.rows(_SHARDS)
    if not rows:
        return 0, "nothing is recorded yet"
    limits = [
        (row["kept"] or 0, f"shard {row['shard']} has no checkpoint after it")
        if (row["kept"] or 0) < row["seq"] - 1
        else (row["seq"] - 1, f"it is the last of shard {row['shard']}")
        for row in rows
    ]
    return min(limits)


async def _first_since(connection: Connection, time: int, first: int, end: int) -> int:
    """Find the first sequence from `first` to `end` that was stored at `time` or later; `end` if none was."""
    low, high = first, max(first, end)
    while low < high:
        middle = (low + high) // 2
        item = await next_on_leader(connection, EV, EVENTS, middle)
        if item is None or item.time >= time:
            high = middle
        else:
            low = middle + 1
    return low


_SHARDS = """
SELECT shard_head.shard, shard_head.seq, commit.seq AS kept FROM shard_head
LEFT JOIN checkpoint ON checkpoint.shard = shard_head.shard
LEFT JOIN commit ON commit.incarnation = checkpoint.incarnation AND commit.seq = checkpoint.seq
AND commit.hash = checkpoint.hash
ORDER BY shard_head.shard
"""

_NOTE = """
INSERT INTO trim (stream, seq) VALUES ($1, $2)
ON CONFLICT (stream) DO UPDATE SET seq = greatest(trim.seq, $2)
"""
