"""Damage in either copy of the log is found, named, and mended from the other."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from bus.batch import read_batch
from bus.connection import Connection
from bus.errors import LogLost
from bus.feed import Item
from bus.inspection import Damage, inspect, suspicion
from bus.log import START, last_commit, read_shard, read_stream
from bus.repair import Repaired, _rebuild, repair
from bus.store import Store
from bus.streams import EV, ensure_streams
from infra.services.nats_server import NatsServer
from schemas import codec
from tests.bus.recording import record

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(20)]


async def mended(connection: Connection, store: Store, dropped: list[Item] | None = None) -> Repaired:
    """Repair; see that both copies are whole then, that the shards can be read, and that a recorder can go on."""

    async def cut(items: list[Item]) -> None:
        assert dropped is not None, f"nothing should be cut: {items}"
        dropped.extend(items)

    done = await repair(connection, store, "mender", cut)
    after = await inspect(connection, store)
    assert after.whole, after.damages
    assert await suspicion(connection, store) == ""
    for shard in range(4):
        if (last := await last_commit(connection, shard)) is not None:
            assert [stored async for stored in read_shard(connection, shard, START, last.sequence)]
    await record(connection, store)
    return done


async def lose(connection: Connection, *sequences: int) -> None:
    for sequence in sequences:
        await connection.api(f"STREAM.MSG.DELETE.{EV}", {"seq": sequence, "no_erase": True})


async def shorten(connection: Connection, until: int) -> None:
    """Make EV what it was when it ended at `until`."""
    left = [item async for item in read_stream(connection, 1, until)]
    config = (await connection.api(f"STREAM.INFO.{EV}"))["config"]
    await connection.api(f"STREAM.DELETE.{EV}")
    await connection.api(f"STREAM.CREATE.{EV}", config)
    for item in left:
        await connection.request(item.subject, item.data)


async def held(connection: Connection) -> dict[int, bytes]:
    return {item.sequence: item.data async for item in read_stream(connection, 1, 1_000_000)}


async def execute(database: str, sql: str) -> None:
    client = await asyncpg.connect(database)
    try:
        await client.execute(sql)
    finally:
        await client.close()


async def test_a_whole_log_is_left_as_it_is(history: Any, connection: Connection, store: Store) -> None:
    await history.fill(300, facts=2)
    await record(connection, store)
    await history.commit(1)
    found = await inspect(connection, store)
    assert (found.envelopes, found.facts, found.recorded) == (301, 601, 300)
    done = await mended(connection, store)
    assert done.before.whole
    assert done.incarnation == 1
    assert await held(connection) == history.written


async def test_an_empty_log_is_whole(history: Any, connection: Connection, store: Store) -> None:
    assert (await mended(connection, store)).before.whole


async def test_what_jetstream_lost_comes_back_under_the_same_sequences(
    history: Any, connection: Connection, store: Store
) -> None:
    await history.fill(40)
    await record(connection, store)
    await history.commit(2)
    await lose(connection, 1, 7, 8, 9, 40)
    assert "5 of its 41" in await suspicion(connection, store)
    found = await inspect(connection, store)
    assert found.damages == [
        Damage("log", 1, 1, "missing"),
        Damage("log", 7, 9, "missing"),
        Damage("log", 40, 40, "missing"),
    ]
    done = await mended(connection, store)
    assert (done.restored, done.kept, done.cut, done.lost, done.incarnation) == (5, 1, 0, 0, 2)
    assert await held(connection) == history.written


async def test_a_stream_that_came_back_shorter_gets_its_tail_and_what_was_built_on_it_is_cut(
    history: Any, connection: Connection, store: Store
) -> None:
    for shard in (0, 1, 0, 0, 1):
        await history.commit(shard)
    await record(connection, store)
    written = dict(history.written)
    await shorten(connection, 3)
    assert "ends at 3" in await suspicion(connection, store)
    # an owner of shard 0 that took the shorter log for the truth, and one of shard 2 that lost nothing
    history.previous[0] = codec.digest(written[3])
    await history.commit(0)
    await history.commit(2)
    assert "another envelope at 5" in await suspicion(connection, store)
    dropped: list[Item] = []
    done = await mended(connection, store, dropped)
    assert (done.restored, done.kept, done.cut, done.incarnation) == (2, 1, 1, 2)
    assert [item.data for item in dropped] == [history.written[4]]
    assert await held(connection) == {**written, 6: history.written[5]}


async def test_a_stream_that_only_came_back_shorter_is_continued_where_it_ends(
    history: Any, connection: Connection, store: Store
) -> None:
    await history.fill(20)
    await record(connection, store)
    await shorten(connection, 12)
    made = (await connection.api(f"STREAM.INFO.{EV}"))["created"]
    done = await mended(connection, store)
    assert (done.restored, done.kept, done.cut) == (8, 0, 0)
    assert await held(connection) == history.written
    assert (await connection.api(f"STREAM.INFO.{EV}"))["created"] == made


async def test_what_was_lost_before_it_was_recorded_is_said_and_what_was_built_on_it_is_cut(
    history: Any, connection: Connection, store: Store
) -> None:
    await history.commit(0)
    await record(connection, store)
    for shard in (0, 1, 0, 1):
        await history.commit(shard)
    await lose(connection, 2)
    found = await inspect(connection, store)
    assert [(damage.first, damage.problem) for damage in found.damages] == [
        (2, "missing, and not recorded"),
        (4, "does not continue shard 0"),
    ]
    dropped: list[Item] = []
    done = await mended(connection, store, dropped)
    assert (done.restored, done.kept, done.cut, done.lost) == (0, 2, 1, 1)
    assert [item.sequence for item in dropped] == [4]
    assert list((await held(connection)).values()) == [history.written[n] for n in (1, 3, 5)]


async def test_the_record_is_mended_from_jetstream(
    history: Any, connection: Connection, store: Store, database: str
) -> None:
    await history.fill(10, facts=3)
    await record(connection, store)
    await execute(database, "UPDATE event SET payload = 'x' WHERE seq = 3 AND idx = 1")
    await execute(database, "DELETE FROM event WHERE seq = 6; DELETE FROM commit WHERE seq = 6")
    await execute(database, "UPDATE commit SET time = time + 1 WHERE seq = 10")
    await execute(database, "UPDATE commit SET hash = '0' WHERE seq = 8")
    found = await inspect(connection, store)
    assert [(d.where, d.first, d.last) for d in found.damages] == [("record", n, n) for n in (3, 6, 8, 10)]
    done = await mended(connection, store)
    assert (done.rerecorded, done.restored, done.incarnation) == (4, 0, 1)
    assert await held(connection) == history.written


async def test_what_is_whole_in_neither_copy_is_an_error_and_nothing_is_changed(
    history: Any, connection: Connection, store: Store, database: str
) -> None:
    await history.fill(10)
    await record(connection, store)
    await lose(connection, 5, 8)
    await execute(database, "UPDATE event SET payload = 'x' WHERE seq = 8")
    before = await held(connection)
    with pytest.raises(LogLost) as hopeless:
        await mended(connection, store)
    assert hopeless.value.sequence == 8
    assert await held(connection) == before


async def test_a_repair_that_was_broken_off_is_done_again(history: Any, connection: Connection, store: Store) -> None:
    await history.fill(1500)
    await record(connection, store)
    await history.commit(3)
    await lose(connection, 2)

    async def cut(items: list[Item]) -> None:
        raise AssertionError(items)

    def breaks_off(done: int, _all: int) -> None:
        if rebuilding.is_set() and done > 300:
            raise ConnectionAbortedError
        if done == 1501:
            rebuilding.set()

    rebuilding = asyncio.Event()
    with pytest.raises(ConnectionAbortedError):
        await repair(connection, store, "mender", cut, breaks_off)
    assert 0 < (await connection.api(f"STREAM.INFO.{EV}"))["state"]["messages"] < 1501
    await mended(connection, store)
    assert await held(connection) == history.written


async def test_text_that_postgres_cannot_hold_is_not_damage_and_is_restored_to_the_byte(
    history: Any, connection: Connection, store: Store
) -> None:
    await history.commit(0)
    await history.commit(0, [history.fact(traceparent="x\0y")])
    await history.commit(0)
    await record(connection, store)
    assert (await inspect(connection, store)).whole
    await lose(connection, 1, 2)
    await mended(connection, store)
    assert await held(connection) == history.written


async def test_a_record_that_cannot_be_made_again_is_not_written_over_the_log(
    history: Any, connection: Connection, store: Store, database: str
) -> None:
    await history.fill(10)
    await record(connection, store)
    await lose(connection, 2)
    before = await held(connection)
    found = await inspect(connection, store)
    await execute(database, "UPDATE event SET payload = 'x' WHERE seq = 7")
    with pytest.raises(LogLost):
        await _rebuild(connection, store, found, found.cursor, lambda _done, _all: None)
    assert await held(connection) == before


async def test_a_server_that_lags_is_not_believed(
    history: Any, connection: Connection, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await history.fill(40)
    await record(connection, store)
    await history.fill(10)
    await lose(connection, 5, 6)
    plain = read_batch

    async def lagging(on: Connection, stream: str, subject: str, first: int) -> list[Item]:
        return [item for item in await plain(on, stream, subject, first) if item.sequence <= 20]

    monkeypatch.setattr("bus.log.read_batch", lagging)
    monkeypatch.setattr("bus.batch.read_batch", lagging)
    assert [(d.first, d.last) for d in (await inspect(connection, store)).damages] == [(5, 6)]
    done = await mended(connection, store)
    assert (done.restored, done.kept, done.lost) == (2, 10, 0)
    assert await held(connection) == history.written


async def test_a_tail_that_was_renumbered_before_a_repair_broke_off_is_not_cut(
    history: Any, connection: Connection, store: Store
) -> None:
    await history.fill(8)
    await record(connection, store)
    for shard in (0, 1, 2, 3):
        await history.commit(shard)
    await lose(connection, 2, 9)
    dropped: list[Item] = []

    async def cut(items: list[Item]) -> None:
        dropped.extend(items)

    plain = store.advance

    async def advanced(*given: Any) -> None:
        await plain(*given)
        raise ConnectionAbortedError

    store.advance = advanced  # type: ignore[method-assign]
    repairing = asyncio.create_task(repair(connection, store, "mender", cut))
    with pytest.raises(ConnectionAbortedError):
        await repairing
    store.advance = plain  # type: ignore[method-assign]
    first = list(dropped)
    done = await mended(connection, store, dropped)
    assert dropped == first
    assert done.cut == 0
    assert len(await held(connection)) == 8 + 3


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "zeroed"])
async def test_damage_on_the_disk_of_the_server_is_found_and_mended(
    history: Any, connection: Connection, store: Store, nats_server: NatsServer, damage: str
) -> None:
    await history.fill(200)
    await record(connection, store)
    await nats_server.stop()
    [block] = await asyncio.to_thread(_blocks, nats_server.folder)
    await asyncio.to_thread(_damage, block, damage)
    await nats_server.restart()
    await connection.client.flush()
    await ensure_streams(connection, shards=4)
    found = await inspect(connection, store)
    assert found.log_damages
    await mended(connection, store)
    assert await held(connection) == history.written


def _blocks(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"**/streams/{EV}/msgs/*.blk"))


def _damage(block: Path, damage: str) -> None:
    data = bytearray(block.read_bytes())
    middle = len(data) // 2
    if damage == "flipped bit":
        data[middle] ^= 1
    elif damage == "truncated":
        del data[middle:]
    else:
        data[middle : middle + 4096] = bytes(4096)
    block.write_bytes(bytes(data))
