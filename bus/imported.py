"""Threads from bundle files, kept in Postgres beside the log and apart from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from bus.errors import BusError
from bus.store import COLUMNS, Store, StoredEvent, ThreadSummary, stored_event

_BATCH = 20_000
_COLUMNS = ("bundle", *(name for name in COLUMNS["event"] if name != "blob"))


class BundleKept(BusError):
    """A bundle of that name is there already."""

    def __init__(self, name: str, same: bool) -> None:
        problem = "is imported already" if same else "is the name of another bundle that was imported"
        super().__init__(f"{name!r} {problem}: choose another with --as, or put this one in its place with --replace")
        self.name = name
        self.same = same


class Kept(NamedTuple):
    """A thread of an imported bundle."""

    events: list[StoredEvent]
    redacted: bool


async def keep_bundle(
    store: Store, name: str, digest: str, redacted: bool, threads: Iterable[list[StoredEvent]]
) -> None:
    """Write the threads of a bundle, all or none.

    Raises:
        BundleKept: there is a bundle of that name.
        Unavailable: Postgres cannot be reached.
    """
    async with store.transaction() as connection:
        found = await connection.fetchval("SELECT digest FROM bundle WHERE name = $1 FOR UPDATE", name)
        if found is not None:
            raise BundleKept(name, found == digest)
        await _write(connection, name, digest, redacted, threads)


async def replace_bundle(
    store: Store, name: str, digest: str, redacted: bool, threads: Iterable[list[StoredEvent]]
) -> None:
    """Write the threads of a bundle in place of those that it has, if any: all, or what was there stays.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    async with store.transaction() as connection:
        await connection.execute("DELETE FROM bundle WHERE name = $1", name)
        await _write(connection, name, digest, redacted, threads)


async def _write(connection: Any, name: str, digest: str, redacted: bool, threads: Iterable[list[StoredEvent]]) -> None:
    await connection.execute("INSERT INTO bundle VALUES ($1, $2, $3)", name, digest, redacted)
    for rows in _batches(name, threads):
        await connection.copy_records_to_table("bundle_event", records=rows, columns=_COLUMNS)


async def kept_thread(store: Store, name: str, tenant: str, thread: str) -> Kept | None:
    """Read a thread of the bundle called `name`; None if there is none."""
    rows = await store.rows(_THREAD, name, tenant, thread)
    return Kept([*map(stored_event, rows)], rows[0]["redacted"]) if rows else None


async def kept_threads(store: Store, limit: int) -> list[ThreadSummary]:
    """Return the threads of imported bundles, called `NAME:ID`, those with the latest events first."""
    return [ThreadSummary(*row) for row in await store.rows(_THREADS, limit)]


def _batches(name: str, threads: Iterable[list[StoredEvent]]) -> Iterator[list[tuple[object, ...]]]:
    rows: list[tuple[object, ...]] = []
    for events in threads:
        rows += [(name, *_row(event)) for event in events]
        if len(rows) >= _BATCH:
            yield rows
            rows = []
    if rows:
        yield rows


def _row(event: StoredEvent) -> tuple[object, ...]:
    fact = event.fact
    return (
        event.incarnation,
        event.sequence,
        event.idx,
        fact.tenant,
        fact.thread,
        fact.kind,
        fact.entity,
        fact.version,
        fact.type,
        fact.cause,
        event.time,
        fact.traceparent,
        fact.key,
        bytes(fact.payload),
    )


_THREAD = """
SELECT bundle_event.*, bundle.redacted FROM bundle_event JOIN bundle ON bundle.name = bundle_event.bundle
WHERE bundle.name = $1 AND tenant = $2 AND thread = $3 ORDER BY incarnation, seq, idx
"""

_THREADS = """
SELECT tenant, bundle || ':' || thread, count(*), min(time), max(time) FROM bundle_event
GROUP BY bundle, tenant, thread ORDER BY max(time) DESC, bundle, thread LIMIT $1
"""
