"""The old part of the log leaves JetStream when Postgres has it, and everything that reads the log goes on."""

from __future__ import annotations

from typing import Any

import pytest

from bus import inspection
from bus.connection import Connection
from bus.errors import LogDamaged, LogLost
from bus.feed import Item
from bus.inspection import Damage, bounds_of, inspect, suspicion, trimmed_to
from bus.log import Position, last_commit, read_shard, read_stream
from bus.repair import repair
from bus.snapshots import Checkpoint, keep, recorded_facts
from bus.store import Store
from bus.streams import EV
from bus.trim import trim
from tests.bus.recording import record

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(20)]

EVER = 2**60
"""Later than any time."""


async def checkpoints(store: Store, *shards: int) -> None:
    heads = await store.heads()
    for shard in shards:
        await keep(store, shard, Checkpoint(*heads[shard], (), b""), ())


async def held(connection: Connection) -> list[int]:
    return [item.sequence async for item in read_stream(connection, 1, 1_000)]


async def no_cut(items: list[Item]) -> None:
    raise AssertionError(items)


@pytest.fixture
async def filled(history: Any, connection: Connection, store: Store) -> Any:
    """Forty envelopes over four shards, recorded, with checkpoints; the shards end at 37, 38, 39 and 40."""
    for n in range(40):
        await history.commit(n % 4)
    await record(connection, store, (EV,))
    await checkpoints(store, 0, 1, 2, 3)
    return history


async def test_all_but_the_last_of_each_shard_can_go_and_the_log_is_whole(
    filled: Any, connection: Connection, store: Store
) -> None:
    would = await trim(connection, store, EVER, dry=True)
    assert len(await held(connection)) == 40
    done = await trim(connection, store, EVER)
    assert done == would
    assert (done.first, done.envelopes) == (37, 36)
    assert "last of shard 0" in done.held_by
    assert await held(connection) == [37, 38, 39, 40]
    found = await inspect(connection, store)
    assert found.whole, found.damages
    assert (found.begins, found.envelopes, found.recorded) == (37, 4, 40)
    assert await suspicion(connection, store) == ""
    assert (await trim(connection, store, EVER)).envelopes == 0
    for shard in range(4):
        assert await last_commit(connection, shard) is not None


async def test_recording_goes_on_after_it(filled: Any, connection: Connection, store: Store) -> None:
    await trim(connection, store, EVER)
    await filled.commit(2)
    await record(connection, store, (EV,))
    found = await inspect(connection, store)
    assert found.whole, found.damages
    assert found.recorded == 41


async def test_what_is_not_recorded_or_has_no_checkpoint_stays(
    history: Any, connection: Connection, store: Store
) -> None:
    for n in range(8):
        await history.commit(n % 2)
    assert await trim(connection, store, EVER) == (1, 0, "nothing is recorded yet")
    await record(connection, store, (EV,))
    await checkpoints(store, 0)
    assert (await trim(connection, store, EVER)).held_by == "shard 1 has no checkpoint after it"
    await checkpoints(store, 1)
    for n in range(8):
        await history.commit(n % 2)
    assert (await trim(connection, store, EVER)).first == 7
    assert (await held(connection))[0] == 7
    await record(connection, store, (EV,))
    assert "no checkpoint after it" in (await trim(connection, store, EVER)).held_by


async def test_only_what_is_older_goes(filled: Any, connection: Connection, store: Store) -> None:
    items = {item.sequence: item async for item in read_stream(connection, 1, 40)}
    done = await trim(connection, store, items[21].time)
    assert done.first == min(sequence for sequence, item in items.items() if item.time >= items[21].time)
    assert done.held_by == ""
    assert (await trim(connection, store, 0)).envelopes == 0


async def test_a_trim_that_was_broken_off_before_the_purge_is_done_again(
    filled: Any, connection: Connection, store: Store
) -> None:
    await store.rows("INSERT INTO trim VALUES ('EV', 20)")
    found = await inspect(connection, store)
    assert found.whole, found.damages
    assert await suspicion(connection, store) == ""
    assert (await trim(connection, store, EVER)).envelopes == 36


async def test_losing_more_of_the_beginning_than_was_trimmed_is_damage_and_comes_back(
    filled: Any, connection: Connection, store: Store
) -> None:
    items = {item.sequence: item async for item in read_stream(connection, 1, 40)}
    await trim(connection, store, items[11].time)
    first = (await bounds_of(connection)).first
    await connection.api(f"STREAM.PURGE.{EV}", {"seq": 31})
    assert f"{31 - first} of its 40" in await suspicion(connection, store)
    with pytest.raises(LogDamaged, match="log verify"):
        await trim(connection, store, EVER)
    found = await inspect(connection, store)
    assert found.damages == [Damage("log", first, 30, "missing")]
    done = await repair(connection, store, "mender", no_cut)
    assert done.restored == 31 - first
    assert await held(connection) == list(range(first, 41))
    after = await inspect(connection, store)
    assert after.whole, after.damages
    for shard in range(4):
        recorded = await store.rows("SELECT seq, hash FROM commit WHERE shard = $1 AND seq < $2", shard, first)
        before = max(recorded, key=lambda row: row["seq"])
        last = await last_commit(connection, shard)
        assert last is not None
        position = Position(before["seq"], before["hash"], 0)
        assert [one async for one in read_shard(connection, shard, position, last.sequence)]


async def test_what_is_trimmed_while_the_log_is_inspected_is_no_damage(
    filled: Any, connection: Connection, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = {item.sequence: item async for item in read_stream(connection, 1, 40)}

    async def then_trimmed(asked: Store) -> int:
        found = await trimmed_to(asked)
        monkeypatch.undo()
        assert (await trim(connection, store, items[30].time)).envelopes > 10
        return found

    monkeypatch.setattr(inspection, "trimmed_to", then_trimmed)
    found = await inspect(connection, store)
    assert found.whole, found.damages
    assert found.recorded == 40


async def test_damage_of_what_exists_once_is_named_and_not_mended(
    filled: Any, connection: Connection, store: Store
) -> None:
    await trim(connection, store, EVER)
    await store.rows("UPDATE event SET payload = 'x' WHERE seq = 5")
    found = await inspect(connection, store)
    assert found.damages == [Damage("record", 5, 5, "not what was recorded")]
    with pytest.raises(LogLost):
        await repair(connection, store, "mender", no_cut)


async def test_the_record_of_a_shard_is_read_by_its_key(connection: Connection, store: Store) -> None:
    await store.rows(
        "INSERT INTO commit SELECT 1, n, n % 4, 1, 'w', 'c' || n, 'code', n, '', n::text "
        "FROM generate_series(1, 4000) n"
    )
    await store.rows(
        "INSERT INTO event SELECT 1, n, i, 'acme', 't' || n, 'run', 'r', i, 'x', 'c', n, '', NULL, "
        "repeat('x', 900)::bytea FROM generate_series(1, 4000) n, generate_series(1, 5) i"
    )
    await store.rows("ANALYZE")
    asked: list[tuple[str, tuple[object, ...]]] = []

    class Watched:
        keys = None

        async def rows(self, sql: str, *values: object) -> Any:
            asked.append((sql, values))
            return await store.rows(sql, *values)

    pages = [page async for page in recorded_facts(Watched(), 1, 3000)]  # type: ignore[arg-type]
    assert [event.sequence for _, events in pages for event in events][::5] == list(range(1, 3000, 4))
    assert [position.sequence for position, _ in pages] == [397, 797, 1197, 1597, 1997, 2397, 2797, 2997]
    for sql, values in asked:
        plan = "\n".join(row[0] for row in await store.rows(f"EXPLAIN {sql}", *values))
        assert "Seq Scan" not in plan, plan
