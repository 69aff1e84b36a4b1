"""Step records expire by the day, without a lock that the recorder waits for; threads stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from bus.connection import Connection
from bus.migrate import migrate, migrations
from bus.partitions import EXPIRING, Partitions, partitions
from bus.recorder import Recorder
from bus.retention import expire_steps, expiring_steps, prepare_partitions, steps_gone_before
from bus.steps import steps_of_request
from bus.store import COLUMNS, Batch, Cursor, Store
from bus.streams import TRACE, ensure_streams
from schemas.times import DAY

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(20)]

TODAY = 20_000
"""A day, counted from the epoch."""
NOW = TODAY * DAY + DAY // 2


@asynccontextmanager
async def client(database: str) -> AsyncIterator[Any]:
    connected = await asyncpg.connect(database)
    try:
        yield connected
    finally:
        await connected.close()


@asynccontextmanager
async def recording(connection: Connection, store: Store, name: str = "rec1") -> AsyncIterator[Recorder]:
    recorder = Recorder(connection, store, name)
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def step(n: int, day: int) -> dict[str, list[tuple[Any, ...]]]:
    """Rows of one step, stored on a day."""
    time = day * DAY + n
    return {
        "record": [(1, n, "", "step.tiny.plan", "epoch1", n, time, b"{}")],
        "step_request": [(f"g{n}", "tiny", "epoch1", n, n, time)],
    }


async def store_steps(store: Store, days: list[int]) -> None:
    made = Partitions(store)
    for n, day in enumerate(days, start=1):
        tables = step(n, day)
        for table in EXPIRING:
            await made.make_for(table, tables[table], COLUMNS[table].index("time"))
        before = await store.claim(TRACE, "rec1")
        await store.advance(before, Batch(Cursor(TRACE, 1, n, f"h{n}"), tables, {}), "rec1")


async def numbers(store: Store, table: str = "record", column: str = "n") -> list[int]:
    return [row[column] for row in await store.rows(f"SELECT {column} FROM {table} ORDER BY 1")]


async def test_only_days_that_are_over_for_as_long_as_steps_are_kept_expire(store: Store) -> None:
    await store_steps(store, [TODAY - 9, TODAY - 8, TODAY - 7, TODAY])
    assert await steps_gone_before(store) == 0
    would = await expiring_steps(store, NOW, 7 * DAY)
    assert await numbers(store) == [1, 2, 3, 4]
    gone, *others = sorted(await asyncio.gather(*(expire_steps(store, NOW, 7 * DAY) for _ in range(3))), reverse=True)
    assert others == [[], []]
    assert gone == would
    assert [(item.name[-8:], item.rows) for item in gone if item.name.startswith("record_")] == [
        ("20240925", 1),
        ("20240926", 1),
    ]
    assert all(item.bytes > 0 for item in gone)
    assert await numbers(store) == [3, 4]
    assert await numbers(store, "step_request", "first") == [3, 4]
    assert await steps_gone_before(store) == (TODAY - 7) * DAY
    assert await asyncio.gather(*(expire_steps(store, NOW, 7 * DAY) for _ in range(2))) == [[], []]
    assert await steps_gone_before(store) == (TODAY - 7) * DAY


async def test_partitions_are_made_ahead_and_by_several_at_once(store: Store) -> None:
    await asyncio.gather(*(prepare_partitions(store, NOW) for _ in range(3)))
    found = await partitions(store, "record")
    assert [(partition.begins, partition.ends) for partition in found] == [
        (day * DAY, (day + 1) * DAY) for day in (TODAY, TODAY + 1, TODAY + 2)
    ]


async def test_a_partition_has_the_indexes_of_its_table(store: Store) -> None:
    await prepare_partitions(store, NOW)
    for table in EXPIRING:
        partition = (await partitions(store, table))[0]
        rows = await store.rows("SELECT indexrelid FROM pg_index WHERE indrelid = $1::text::regclass", partition.name)
        attached = await store.rows(
            "SELECT 1 FROM pg_inherits WHERE inhrelid = ANY($1::oid[])", [row["indexrelid"] for row in rows]
        )
        assert len(rows) == len(attached) == {"record": 2, "step_request": 1}[table]


async def test_a_message_that_was_copied_twice_is_refused(store: Store) -> None:
    await store_steps(store, [TODAY])
    with pytest.raises(asyncpg.UniqueViolationError):
        async with store.transaction() as connection:
            await connection.copy_records_to_table(
                "record", records=step(1, TODAY)["record"], columns=COLUMNS["record"]
            )


async def test_expiring_waits_for_readers_and_nobody_waits_for_it(
    history: Any, connection: Connection, store: Store, database: str
) -> None:
    await store_steps(store, [TODAY - 9])
    async with recording(connection, store, "rec2") as recorder, client(database) as reader:
        reading = reader.transaction()
        await reading.start()
        assert await reader.fetchval("SELECT count(*) FROM record") == 1
        expiring = asyncio.create_task(expire_steps(store, NOW, 7 * DAY))
        await until_detaching(store)
        await connection.api("STREAM.PURGE.TRACE", {"seq": 2})
        await history.step(1, ["g7"])
        await history.commit(0)
        await recorder.drain()
        assert not expiring.done()
        assert [step.n for step in await steps_of_request(store, "g7")] == [1]
        await reading.rollback()
        assert len(await expiring) == 2
    assert await numbers(store) == [1, 1]


async def until_detaching(store: Store) -> None:
    """Wait until a partition is on its way out."""
    async with asyncio.timeout(5):
        while not any(partition.leaving for partition in await partitions(store, "record")):
            pass


@pytest.mark.parametrize("leave", ["detaching", "detached"])
async def test_what_was_broken_off_is_finished_by_the_next(store: Store, database: str, leave: str) -> None:
    await store_steps(store, [TODAY - 9, TODAY])
    name = (await partitions(store, "record"))[0].name
    async with client(database) as reader, client(database) as other:
        if leave == "detaching":
            reading = reader.transaction()
            await reading.start()
            await reader.fetchval("SELECT count(*) FROM record")
            await other.execute("SET statement_timeout = '300ms'")
            with pytest.raises(asyncpg.QueryCanceledError):
                await other.execute(f"ALTER TABLE record DETACH PARTITION {name} CONCURRENTLY")
            await reading.rollback()
            assert (await partitions(store, "record"))[0].leaving
        else:
            await other.execute(f"ALTER TABLE record DETACH PARTITION {name} CONCURRENTLY")
    await expire_steps(store, NOW, 7 * DAY)
    assert await numbers(store) == [2]
    assert await store.rows("SELECT 1 FROM pg_class WHERE relname = $1", name) == []


async def test_the_recorder_makes_a_day_that_was_dropped_under_it_again(
    history: Any, connection: Connection, store: Store
) -> None:
    async with recording(connection, store) as recorder:
        await history.step(1, ["g1"])
        await recorder.drain()
        (day,) = await partitions(store, "record")
        await expire_steps(store, day.ends + DAY, DAY)
        assert await numbers(store) == []
        await history.step(2, ["g1"])
        await recorder.drain()
    assert await numbers(store) == [2, 2]
    assert [step.n for step in await steps_of_request(store, "g1")] == [2]


async def test_a_trace_whose_beginning_has_expired_here_and_whose_end_was_lost_is_not_copied_twice(
    history: Any, connection: Connection, store: Store
) -> None:
    for n in (1, 2, 3, 4):
        await history.step(n, ["g1"])
    async with recording(connection, store) as recorder:
        await recorder.drain()
    await store.rows("DELETE FROM record WHERE seq <= 4")  # as if a day had ended there
    await connection.api(f"STREAM.DELETE.{TRACE}")
    await ensure_streams(connection, shards=4)
    for n in (1, 2, 3):
        await history.step(n, ["g1"])
    await history.step(1, ["g2"], epoch="epoch2")
    async with recording(connection, store, "rec2") as recorder:
        await recorder.drain()
    rows = await store.rows("SELECT incarnation, seq FROM record ORDER BY incarnation, seq")
    assert [tuple(row) for row in rows] == [(1, 5), (1, 6), (1, 7), (1, 8), (2, 7), (2, 8)]


async def test_the_migration_keeps_the_rows_that_are_there(empty_database: str) -> None:
    known = await asyncio.to_thread(lambda: list(migrations()))
    async with client(empty_database) as old:
        await migrate(old, known[:3])
        rows = [(1, n, "", "step.tiny.plan", "epoch1", n, (TODAY - n) * DAY + 5, b"{}") for n in range(4)]
        await old.copy_records_to_table("record", records=rows, columns=COLUMNS["record"])
        await old.execute("INSERT INTO step_request VALUES ('g1', 'tiny', 'epoch1', 0, 3)")
    async with await Store.open(empty_database) as store:
        assert await numbers(store) == [0, 1, 2, 3]
        assert await numbers(store, "step_request", "last") == [3]
        (first,) = await partitions(store, "record")
        assert (first.begins, first.ends) == (0, (TODAY + 1) * DAY)
        await prepare_partitions(store, NOW)
        assert [partition.begins // DAY for partition in await partitions(store, "record")] == [
            0,
            TODAY + 1,
            TODAY + 2,
        ]
        gone = await expire_steps(store, (TODAY + 8) * DAY, 7 * DAY)
        assert [(item.name, item.rows) for item in gone] == [("record_first", 4), ("step_request_first", 1)]
        assert await numbers(store) == []


async def test_the_migration_of_a_database_without_records_leaves_no_partition(store: Store) -> None:
    assert await partitions(store, "record") == await partitions(store, "step_request") == []
