"""The log in Postgres: the database is brought to shape once, and moves forward in whole batches."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from bus.connection import Connection
from bus.errors import LogDamaged, Unavailable
from bus.migrate import DatabaseMismatch, Migration, migrate, migrations
from bus.store import Batch, Cursor, RecorderFenced, Store
from infra.services.process import free_port
from tests.bus.recording import record

pytestmark = [pytest.mark.anyio, pytest.mark.servers]


def rows(entity: str, version: int, sequence: int, idx: int = 0) -> tuple[Any, ...]:
    return (
        1, sequence, idx, "acme", "t1", "run", entity, version, "test.happened", "c1", 5, "", None, b"{}", None,
    )  # fmt: skip


async def test_many_processes_migrate_a_new_database_once(empty_database: str) -> None:
    stores = await asyncio.gather(*(Store.open(empty_database) for _ in range(4)))
    assert await stores[0].cursor("EV") is None
    await asyncio.gather(*(store.close() for store in stores))


async def test_a_database_of_newer_code_is_refused(database: str) -> None:
    client = await asyncpg.connect(database)
    await client.execute("INSERT INTO migration VALUES (99, '0099_future.sql', 'f')")
    with pytest.raises(DatabaseMismatch, match=r"migrations \[99\] .* upgrade Ostinato"):
        await Store.open(database)
    await client.close()


async def test_an_applied_migration_never_changes_and_a_failed_one_leaves_nothing(empty_database: str) -> None:
    client = await asyncpg.connect(empty_database)
    first = Migration(1, "0001_a.sql", "CREATE TABLE a ()")
    await migrate(client, [first])
    with pytest.raises(DatabaseMismatch, match=r"'0001_a\.sql' was changed"):
        await migrate(client, [first._replace(sql="CREATE TABLE b ()")])
    with pytest.raises(asyncpg.PostgresSyntaxError):
        await migrate(client, [first, Migration(2, "0002_c.sql", "CREATE TABLE c (); CREATE TABEL d ()")])
    assert await client.fetchval("SELECT to_regclass('c')") is None
    await migrate(client, [first, Migration(2, "0002_c.sql", "CREATE TABLE c ()")])
    assert await client.fetchval("SELECT count(*) FROM migration") == 2
    await client.close()


def test_migrations_are_numbered_without_gaps() -> None:
    assert [migration.version for migration in migrations()] == list(range(1, 1 + len(list(migrations()))))


async def test_a_database_that_cannot_be_reached_is_an_error_of_ours() -> None:
    with pytest.raises(Unavailable, match="Postgres cannot be used"):
        await Store.open(f"postgresql://ostinato@127.0.0.1:{free_port()}/ostinato")


@pytest.mark.parametrize("state", ["53100", "58030", "25006"], ids=["disk full", "disk broken", "read only"])
async def test_what_a_server_cannot_do_now_may_be_tried_again(store: Store, state: str) -> None:
    raising = f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$"
    with pytest.raises(Unavailable):
        await store.rows(raising)
    with pytest.raises(Unavailable):
        async with store.transaction() as connection:
            await connection.execute(raising)


async def test_a_batch_whose_commit_was_in_doubt_can_be_sent_again(store: Store) -> None:
    before = await store.claim("EV", "rec1")
    batch = Batch(Cursor("EV", 1, 1, "h1"), {"event": [rows("r1", 1, 1)]}, {0: (1, "h1")})
    await store.advance(before, batch, "rec1")
    await store.advance(before, batch, "rec1")
    assert len(await store.events_of_entity("acme", "run", "r1")) == 1
    assert await store.cursor("EV") == batch.cursor
    assert await store.heads() == {0: (1, "h1")}


async def test_a_writer_that_was_replaced_changes_nothing(store: Store) -> None:
    before = await store.claim("EV", "old")
    assert await store.claim("EV", "new") == before
    batch = Batch(Cursor("EV", 1, 1, "h1"), {"event": [rows("r1", 1, 1)]}, {})
    with pytest.raises(RecorderFenced) as fenced:
        await store.advance(before, batch, "old")
    assert fenced.value.writer == "new"
    assert await store.events_of_thread("acme", "t1") == []


async def test_a_version_written_twice_moves_nothing(store: Store) -> None:
    before = await store.claim("EV", "rec1")
    twice = {"event": [rows("r1", 1, 1), rows("r1", 1, 1, idx=1)]}
    with pytest.raises(LogDamaged, match="r1"):
        await store.advance(before, Batch(Cursor("EV", 1, 1, "h1"), twice, {}), "rec1")
    assert await store.cursor("EV") == before


async def test_an_entity_is_read_in_order_from_a_version_on(history: Any, connection: Connection, store: Store) -> None:
    for version in range(1, 6):
        await history.commit(0, [history.fact(entity="r1", version=version), history.fact()])
    await record(connection, store)
    events = await store.events_of_entity("acme", "run", "r1")
    assert [(event.fact.version, event.sequence, event.idx) for event in events] == [(n, n, 0) for n in range(1, 6)]
    assert events[0].fact == history.fact(entity="r1", version=1, thread=events[0].fact.thread)
    assert [event.fact.version for event in await store.events_of_entity("acme", "run", "r1", after=3)] == [4, 5]
    assert await store.events_of_entity("other", "run", "r1") == []


async def test_threads_are_listed_by_their_latest_event(history: Any, connection: Connection, store: Store) -> None:
    for time, (tenant, thread) in enumerate(
        [("acme", "t1"), ("acme", "t2"), ("bolt", "t1"), ("acme", "t1"), ("", "")], start=1
    ):
        await history.commit(0, [history.fact(tenant=tenant, thread=thread)], time=time)
    await record(connection, store)
    assert [tuple(line) for line in await store.threads(10)] == [
        ("acme", "t1", 2, 1, 4),
        ("bolt", "t1", 1, 3, 3),
        ("acme", "t2", 1, 2, 2),
    ]
    assert len(await store.threads(1)) == 1
    assert [event.sequence for event in await store.events_of_thread("acme", "t1")] == [1, 4]
