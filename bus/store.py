"""The log in Postgres: reading it back, and the one transaction by which a copy of a stream moves forward."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

import asyncpg
import msgspec

from bus.address import masked
from bus.errors import BusError, LogDamaged, Unavailable
from bus.keyring import Keyring
from bus.migrate import migrate, migrations
from schemas.envelope import Fact

OUT_OF_REACH = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""What a server that stops, restarts, follows another, is full or cannot use its disk makes asyncpg raise; it may pass.

`InternalClientError` is how asyncpg tells of a connection that was cut between two messages of one statement.
"""

Rows = Sequence[tuple[Any, ...]]


class RecorderFenced(BusError):
    """Another recorder has taken the cursor."""

    def __init__(self, name: str, writer: str) -> None:
        super().__init__(f"the recorder of {name!r} was replaced by {writer!r}: this one must stop")
        self.name = name
        self.writer = writer


class DatabaseUnusable(BusError):
    """Postgres answers, but not with a database for us."""


class Cursor(NamedTuple):
    """How far a stream has been copied."""

    name: str
    incarnation: int
    sequence: int
    hash: str
    """Digest of the message at `sequence`; empty at 0."""


class StoredEvent(NamedTuple):
    """A fact and its place in the log."""

    incarnation: int
    sequence: int
    idx: int
    """Place within the envelope, from 0."""
    time: int
    """The envelope's, microseconds since the Unix epoch."""
    fact: Fact


class ThreadSummary(NamedTuple):
    """A line in a list of threads."""

    tenant: str
    thread: str
    events: int
    first: int
    """Time of the first event, microseconds since the Unix epoch."""
    last: int
    """Time of the last event."""


class Batch(NamedTuple):
    """What one transaction adds: the rows, and where the cursor and the chains then stand."""

    cursor: Cursor
    tables: Mapping[str, Rows]
    """Whole rows, in the order of `COLUMNS`."""
    heads: Mapping[int, tuple[int, str]]
    """Shard to (sequence, hash)."""


COLUMNS: Mapping[str, tuple[str, ...]] = {
    "commit": (
        "incarnation", "seq", "shard", "term", "writer", "commit_id", "code", "time", "previous", "hash", "raw",
    ),
    "event": (
        "incarnation", "seq", "idx", "tenant", "thread", "kind", "entity", "version", "type", "cause", "time",
        "traceparent", "key_id", "payload", "blob",
    ),
    "record": ("incarnation", "seq", "tenant", "subject", "producer", "n", "time", "payload"),
    "step_request": ("request", "engine", "epoch", "first", "last", "time"),
    "gap": ("stream", "incarnation", "first", "last"),
}  # fmt: skip


class Store:
    """A pool of connections to a migrated database."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], url: str) -> None:
        self._pool = pool
        self.url = url
        """Where it is: for a process that opens its own."""
        self.keys: Keyring | None = None
        """Opens sealed payloads; they stay closed without."""

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect, and migrate the database if need be.

        Raises:
            Unavailable: Postgres cannot be reached.
            DatabaseUnusable: it does not let us in, or has no such database.
            DatabaseMismatch: other code migrated the database.
        """
        known = await asyncio.to_thread(lambda: list(migrations()))
        try:
            pool = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=8,
                timeout=5,
                command_timeout=60,
                server_settings={"application_name": "ostinato"},
                reset=_nothing_to_reset,
            )
        except OUT_OF_REACH as error:
            raise _unavailable(error) from error
        except asyncpg.PostgresError as error:
            raise DatabaseUnusable(f"Postgres at {masked(url)} says: {error}: mend it, or choose another") from error
        store = cls(pool, url)
        try:
            async with pool.acquire() as connection:
                await migrate(connection, known)
        except BaseException as error:
            await store.close()
            if isinstance(error, OUT_OF_REACH):
                raise _unavailable(error) from error
            raise
        return store

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give every connection back; bounded, whatever the server does."""
        try:
            async with asyncio.timeout(2):
                await self._pool.close()
        except OUT_OF_REACH:
            self._pool.terminate()

    async def events_of_thread(self, tenant: str, thread: str) -> list[StoredEvent]:
        """Return a thread's events in the order of the log."""
        rows = await self.rows(
            "SELECT * FROM event WHERE tenant = $1 AND thread = $2 ORDER BY incarnation, seq, idx", tenant, thread
        )
        return await read_events(self, rows)

    async def events_of_entity(self, tenant: str, kind: str, entity: str, after: int = 0) -> list[StoredEvent]:
        """Return an entity's events of versions above `after`, in order."""
        rows = await self.rows(
            "SELECT * FROM event WHERE tenant = $1 AND kind = $2 AND entity = $3 AND version > $4 ORDER BY version",
            tenant,
            kind,
            entity,
            after,
        )
        return await read_events(self, rows)

    async def threads(self, limit: int) -> list[ThreadSummary]:
        """Return the threads with the latest events, the latest first."""
        rows = await self.rows(_THREADS, limit)
        return [ThreadSummary(*row) for row in rows]

    async def cursor(self, name: str) -> Cursor | None:
        """Return how far a stream has been copied; None if it never was."""
        rows = await self.rows("SELECT name, incarnation, seq, hash FROM cursor WHERE name = $1", name)
        return Cursor(*rows[0]) if rows else None

    async def heads(self) -> dict[int, tuple[int, str]]:
        """Return where each shard's chain has got: (sequence, hash)."""
        rows = await self.rows("SELECT shard, seq, hash FROM shard_head")
        return {row["shard"]: (row["seq"], row["hash"]) for row in rows}

    async def trace_message(self, sequence: int) -> bytes | None:
        """Return a recorded trace message, of the latest incarnation that used the sequence."""
        rows = await self.rows("SELECT payload FROM record WHERE seq = $1 ORDER BY incarnation DESC LIMIT 1", sequence)
        return rows[0]["payload"] if rows else None

    async def claim(self, name: str, writer: str) -> Cursor:
        """Become the only writer of a cursor, made at 0 if it is new; whoever wrote before is fenced."""
        rows = await self.rows(
            "INSERT INTO cursor (name, incarnation, seq, hash, writer) VALUES ($1, 1, 0, '', $2) "
            "ON CONFLICT (name) DO UPDATE SET writer = $2 RETURNING name, incarnation, seq, hash",
            name,
            writer,
        )
        return Cursor(*rows[0])

    async def advance(self, before: Cursor, batch: Batch, writer: str) -> None:
        """Add the rows and move the cursor from `before`, both or neither.

        After `Unavailable` it may have happened; calling again finds out, and changes nothing if it had.

        Raises:
            RecorderFenced: the cursor is another writer's.
            LogDamaged: the log holds an entity's version or a commit twice.
            Unavailable: Postgres cannot be reached, or a row's partition is not there any more.
        """
        try:
            async with self.transaction() as connection:
                if await _moved(connection, before, batch.cursor, writer):
                    await _add(connection, batch)
        except asyncpg.UniqueViolationError as error:
            raise LogDamaged(batch.cursor.name, batch.cursor.sequence, f"{error} ({error.detail})") from error
        except asyncpg.CheckViolationError as error:
            raise Unavailable(f"a partition of Postgres was dropped: {error}") from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """Give a connection on which all that is done is kept together, or none of it.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                yield connection
        except OUT_OF_REACH as error:
            raise _unavailable(error) from error

    async def rows(self, sql: str, *values: object) -> list[asyncpg.Record]:
        """Run a query.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        try:
            rows: list[asyncpg.Record] = await self._pool.fetch(sql, *values)
        except OUT_OF_REACH as error:
            raise _unavailable(error) from error
        return rows


async def _moved(connection: Any, before: Cursor, after: Cursor, writer: str) -> bool:
    """Move the cursor; False if an earlier call has. The row's lock makes a rival wait until we are done."""
    row = await connection.fetchrow(
        "SELECT incarnation, seq, writer FROM cursor WHERE name = $1 FOR UPDATE", before.name
    )
    if row is None or row["writer"] != writer:
        raise RecorderFenced(before.name, row["writer"] if row else "a new database")
    found = (row["incarnation"], row["seq"])
    if found == (after.incarnation, after.sequence) and found != (before.incarnation, before.sequence):
        return False
    assert found == (before.incarnation, before.sequence), f"cursor {before.name!r} is at {found}, not {before}"
    await connection.execute(
        "UPDATE cursor SET incarnation = $2, seq = $3, hash = $4 WHERE name = $1",
        *after,
    )
    return True


async def _add(connection: Any, batch: Batch) -> None:
    for table, rows in batch.tables.items():
        if rows:
            await connection.copy_records_to_table(table, records=rows, columns=COLUMNS[table])
    if batch.heads:
        await connection.executemany(
            "INSERT INTO shard_head (shard, incarnation, seq, hash) VALUES ($1, $2, $3, $4) "
            "ON CONFLICT (shard) DO UPDATE SET incarnation = $2, seq = $3, hash = $4",
            [(shard, batch.cursor.incarnation, *head) for shard, head in batch.heads.items()],
        )


async def _nothing_to_reset(_connection: Any) -> None:
    """Spare each query a second one: transactions are rolled back by the pool, and what we set is theirs alone."""


def _unavailable(error: BaseException) -> Unavailable:
    return Unavailable(f"Postgres cannot be used: {error or type(error).__name__} (is the server running?)")


async def read_events(store: Store, rows: Sequence[asyncpg.Record]) -> list[StoredEvent]:
    """Read rows of table `event`, with their payloads opened, where there are keys for that.

    Raises:
        Unavailable: the keys cannot be read.
    """
    stored = [stored_event(row) for row in rows]
    if store.keys is None or all(event.fact.key is None for event in stored):
        return stored
    facts = await store.keys.open([event.fact for event in stored], surely=True)
    return [event._replace(fact=fact) for event, fact in zip(stored, facts, strict=True)]


def stored_event(row: asyncpg.Record) -> StoredEvent:
    """Read a row of table `event`."""
    fact = stored_fact(row, msgspec.Raw(row["payload"]))
    return StoredEvent(row["incarnation"], row["seq"], row["idx"], row["time"], fact)


def stored_fact(row: asyncpg.Record, payload: msgspec.Raw) -> Fact:
    """Read what a row of table `event` says of a fact, with this payload."""
    return Fact(
        tenant=row["tenant"],
        thread=row["thread"],
        kind=row["kind"],
        entity=row["entity"],
        version=row["version"],
        type=row["type"],
        cause=row["cause"],
        payload=payload,
        traceparent=row["traceparent"],
        key=row["key_id"],
    )


# hops from thread to thread along the index, so that it costs by the thread and not by the event
_THREADS = """
WITH RECURSIVE each AS (
    (SELECT tenant, thread FROM event WHERE thread <> '' ORDER BY tenant, thread LIMIT 1)
    UNION ALL
    SELECT following.* FROM each, LATERAL (
        SELECT tenant, thread FROM event
        WHERE (tenant, thread) > (each.tenant, each.thread) AND thread <> ''
        ORDER BY tenant, thread LIMIT 1
    ) AS following
), latest AS (
    SELECT each.*, final.time FROM each, LATERAL (
        SELECT incarnation, seq, idx, time FROM event
        WHERE event.tenant = each.tenant AND event.thread = each.thread
        ORDER BY incarnation DESC, seq DESC, idx DESC LIMIT 1
    ) AS final ORDER BY incarnation DESC, seq DESC, idx DESC LIMIT $1
)
SELECT latest.tenant, latest.thread, totals.events, totals.first, latest.time
FROM latest, LATERAL (
    SELECT count(*) AS events, min(time) AS first FROM event
    WHERE event.tenant = latest.tenant AND event.thread = latest.thread
) AS totals ORDER BY latest.time DESC, latest.thread
"""
