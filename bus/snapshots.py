"""Checkpoints of shards and snapshots of threads in Postgres: a cache, by which the log need not be folded from zero.

Each holds for one envelope, named by sequence and hash, that has been recorded: after a repair that changed history,
or in another database, it is simply not found.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

from bus.errors import LogDamaged
from bus.log import Position
from bus.store import Store, StoredEvent, read_events
from bus.streams import EV
from schemas import codec
from schemas.envelope import Fact

_PAGE = 100


class ThreadKey(NamedTuple):
    """A thread, and which machine folds it."""

    family: str
    tenant: str
    thread: str


class Checkpoint(NamedTuple):
    """What an owner need not read again of its shard."""

    sequence: int
    hash: str
    """Digest of the envelope at `sequence`."""
    open: tuple[ThreadKey, ...]
    """Threads in which something may be under way there."""
    known: bytes
    """A filter of all threads up to there."""

    @property
    def position(self) -> Position:
        """Where reading goes on."""
        return Position(self.sequence, self.hash, 0)


class Snapshot(NamedTuple):
    """One thread's folded state."""

    key: ThreadKey
    reducer: str
    """Hash of the code that folded it."""
    sequence: int
    """Of the last envelope that is in it."""
    state: bytes


class Fold(NamedTuple):
    """How the threads of one family are folded."""

    kinds: tuple[str, ...]
    """Of the entities whose events are."""
    reducer: str
    """Hash of the code that does it; empty where no snapshot is to be used."""


class History(NamedTuple):
    """A thread as it is recorded: a snapshot where there is one, and every event after it."""

    snapshot: Snapshot | None
    events: Sequence[StoredEvent]


async def read_checkpoint(store: Store, shard: int) -> Checkpoint | None:
    """Return the shard's checkpoint, if there is one of this log.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    rows = await store.rows(_CHECKPOINT, shard)
    if not rows:
        return None
    row = rows[0]
    keys: tuple[tuple[str, str, str], ...] = codec.decode(row["open"], tuple[tuple[str, str, str], ...])
    return Checkpoint(row["seq"], row["hash"], tuple(ThreadKey(*key) for key in keys), row["known"])


async def keep(store: Store, shard: int, checkpoint: Checkpoint, snapshots: Sequence[Snapshot]) -> None:
    """Write a checkpoint, unless there is a later one, and snapshots of threads.

    Args:
        store: the database.
        shard: whose checkpoint.
        checkpoint: of an envelope that has been recorded.
        snapshots: of this shard's threads, at sequences that have been recorded.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    async with store.transaction() as connection:
        await connection.execute(
            _KEEP_CHECKPOINT,
            shard,
            checkpoint.sequence,
            checkpoint.hash,
            codec.encode(checkpoint.open),
            checkpoint.known,
        )
        rows = [
            (one.key.tenant, one.key.thread, one.key.family, one.reducer, one.sequence, one.state) for one in snapshots
        ]
        await connection.executemany(_KEEP_SNAPSHOT, rows)


async def histories(
    store: Store,
    keys: Sequence[ThreadKey],
    folds: Mapping[str, Fold],
    until: int | None = None,
) -> dict[ThreadKey, History]:
    """Read threads: the snapshot of each, if it is this code's, and its events after that.

    Args:
        store: the record.
        keys: which threads.
        folds: how each family is folded.
        until: no further than this sequence; all that is recorded, if None.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    found: dict[ThreadKey, History] = {}
    end = until if until is not None else 2**62
    for family in {key.family for key in keys}:
        wanted = [key for key in keys if key.family == family]
        names = ([key.tenant for key in wanted], [key.thread for key in wanted])
        rows = await store.rows(_SNAPSHOTS, family, folds[family].reducer, end, *names)
        snapshots = {
            (row["tenant"], row["thread"]): Snapshot(
                ThreadKey(family, row["tenant"], row["thread"]), row["reducer"], row["seq"], row["state"]
            )
            for row in rows
        }
        after = [snapshots[key[1:]].sequence if key[1:] in snapshots else 0 for key in wanted]
        events: dict[tuple[str, str], list[StoredEvent]] = {}
        for event in await read_events(store, await store.rows(_EVENTS, *names, after, end, folds[family].kinds)):
            events.setdefault((event.fact.tenant, event.fact.thread), []).append(event)
        for key in wanted:
            found[key] = History(snapshots.get(key[1:]), events.get(key[1:], []))
    return found


def check_version(versions: Mapping[tuple[str, str], int], sequence: int, fact: Fact) -> None:
    """See that a fact, of the envelope at `sequence`, follows on what was folded.

    Raises:
        LogDamaged: it does not.
    """
    before = versions.get((fact.kind, fact.entity), 0)
    if fact.version != before + 1:
        problem = f"{fact.kind} {fact.entity!r} of thread {fact.thread!r} goes from version {before} to {fact.version}"
        raise LogDamaged(EV, sequence, problem)


async def recorded_facts(store: Store, shard: int, until: int) -> AsyncIterator[tuple[Position, list[StoredEvent]]]:
    """Yield a shard's recorded events up to a sequence, some envelopes at a time, with the position after each part.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    place = (0, 0)
    while commits := await store.rows(_COMMITS_OF_SHARD, *place, shard, until, _PAGE):
        last = commits[-1]
        place = (last["incarnation"], last["seq"])
        rows = await store.rows(_FACTS, [row["incarnation"] for row in commits], [row["seq"] for row in commits])
        yield Position(last["seq"], last["hash"], last["term"]), await read_events(store, rows)


async def snapshots_of(store: Store, reducers: Mapping[str, str]) -> AsyncIterator[tuple[Snapshot, int]]:
    """Yield every snapshot that may be used, with how many there are.

    Args:
        store: the database.
        reducers: of each family, the hash of the code that folds it.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    (counted,) = await store.rows("SELECT count(*) AS n FROM snapshot WHERE reducer = ANY($1)", [*reducers.values()])
    after = ThreadKey("", "", "")
    while rows := await store.rows(_ALL_SNAPSHOTS, *after, list(reducers), list(reducers.values()), _PAGE):
        for row in rows:
            after = ThreadKey(row["family"], row["tenant"], row["thread"])
            yield Snapshot(after, row["reducer"], row["seq"], row["state"]), counted["n"]


async def drop_snapshots(store: Store, keys: Sequence[ThreadKey]) -> None:
    """Drop the snapshots of these threads: they are folded from their events then.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    async with store.transaction() as connection:
        statement = "DELETE FROM snapshot WHERE family = $1 AND tenant = $2 AND thread = $3"
        await connection.executemany(statement, keys)


async def forget(connection: Any) -> None:
    """Drop all checkpoints and snapshots: history is about to change."""
    await connection.execute("DELETE FROM checkpoint")
    await connection.execute("DELETE FROM snapshot")


_INCARNATIONS = "SELECT generate_series(1, (SELECT incarnation FROM cursor WHERE name = 'EV'))"
"""A sequence may have been used in several: each is looked for by the key."""

_CHECKPOINT = """
SELECT checkpoint.* FROM checkpoint JOIN commit USING (incarnation, seq, hash) WHERE checkpoint.shard = $1
"""

_KEEP_CHECKPOINT = f"""
INSERT INTO checkpoint (shard, incarnation, seq, hash, open, known)
SELECT $1, incarnation, seq, hash, $4, $5 FROM commit
WHERE incarnation IN ({_INCARNATIONS}) AND seq = $2 AND hash = $3
ON CONFLICT (shard) DO UPDATE SET incarnation = excluded.incarnation, seq = $2, hash = $3, open = $4, known = $5
WHERE checkpoint.seq < $2
"""

_KEEP_SNAPSHOT = f"""
INSERT INTO snapshot (tenant, thread, family, reducer, incarnation, seq, hash, state)
SELECT $1, $2, $3, $4, incarnation, seq, hash, $6 FROM commit
WHERE incarnation IN ({_INCARNATIONS}) AND seq = $5 ORDER BY incarnation DESC LIMIT 1
ON CONFLICT (tenant, thread, family) DO UPDATE
SET reducer = $4, incarnation = excluded.incarnation, seq = $5, hash = excluded.hash, state = $6
"""

_SNAPSHOTS = """
SELECT snapshot.* FROM snapshot JOIN commit USING (incarnation, seq, hash)
WHERE family = $1 AND reducer = $2 AND seq <= $3
AND (tenant, thread) IN (SELECT * FROM unnest($4::text[], $5::text[]))
"""

_COMMITS_OF_SHARD = """
SELECT incarnation, seq, hash, term FROM commit
WHERE (incarnation, seq) > ($1, $2) AND shard = $3 AND seq <= $4 ORDER BY incarnation, seq LIMIT $5
"""

_FACTS = """
SELECT event.* FROM unnest($1::integer[], $2::bigint[]) AS wanted (incarnation, seq)
JOIN event USING (incarnation, seq) ORDER BY incarnation, seq, idx
"""
"""Named one by one: of a range over two columns Postgres expects half the table, and reads it whole."""

_ALL_SNAPSHOTS = """
SELECT snapshot.* FROM snapshot JOIN commit USING (incarnation, seq, hash)
WHERE (family, tenant, thread) > ($1, $2, $3)
AND (family, reducer) IN (SELECT * FROM unnest($4::text[], $5::text[]))
ORDER BY family, tenant, thread LIMIT $6
"""

_EVENTS = """
SELECT event.* FROM unnest($1::text[], $2::text[], $3::bigint[]) AS wanted (tenant, thread, after)
JOIN event ON event.tenant = wanted.tenant AND event.thread = wanted.thread
AND event.seq > wanted.after AND event.seq <= $4 AND event.kind = ANY($5)
ORDER BY event.tenant, event.thread, event.incarnation, event.seq, event.idx
"""
