"""The recorder copies the log as it is, once, and says where it is damaged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
import pytest

from bus.connection import Connection
from bus.errors import BusError, LogDamaged
from bus.recorder import Lag, Recorder
from bus.steps import steps_between, steps_of_request
from bus.store import RecorderFenced, Store
from bus.streams import EV, TRACE, ensure_streams
from schemas import codec
from schemas.envelope import FORMAT, Envelope, Fact
from schemas.errors import UnknownFormat
from schemas.live import Delta
from schemas.steps import StepPlan

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(10)]


@asynccontextmanager
async def running(connection: Connection, store: Store, process: str = "rec1") -> AsyncIterator[Recorder]:
    recorder = Recorder(connection, store, process)
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def record(connection: Connection, store: Store, process: str = "rec1") -> None:
    """Record everything there is."""
    async with running(connection, store, process) as recorder:
        await recorder.drain()


async def failure(connection: Connection, store: Store) -> BaseException:
    """Return what the recorder stops with."""
    with pytest.raises((BusError, UnknownFormat)) as stopped:
        await Recorder(connection, store, "rec1").run()
    return stopped.value


async def rows(database: str, sql: str) -> list[tuple[Any, ...]]:
    client = await asyncpg.connect(database)
    try:
        return [tuple(row) for row in await client.fetch(sql)]
    finally:
        await client.close()


async def test_the_envelopes_can_be_made_again_from_the_rows(
    history: Any, connection: Connection, store: Store, database: str
) -> None:
    await history.commit(0, [history.fact(), history.fact(traceparent="00-ab", key="k1", thread="")])
    await history.commit(3, 5)
    await history.commit(0, 0)
    await record(connection, store)
    for seq, shard, term, writer, commit_id, code, time, previous, digest in await rows(
        database, "SELECT seq, shard, term, writer, commit_id, code, time, previous, hash FROM commit ORDER BY seq"
    ):
        facts = tuple(
            Fact(*fields[:7], msgspec.Raw(fields[7]), *fields[8:])
            for fields in await rows(
                database,
                "SELECT tenant, thread, kind, entity, version, type, cause, payload, traceparent, key_id "
                f"FROM event WHERE seq = {seq} ORDER BY idx",
            )
        )
        data = codec.encode(Envelope(FORMAT, shard, term, writer, commit_id, code, time, previous, facts))
        assert data == history.written[seq]
        assert codec.digest(data) == digest
    assert await rows(database, "SELECT count(*) FROM event") == [(7,)]


async def test_a_recorder_goes_on_where_the_last_one_stopped(
    history: Any, connection: Connection, store: Store, database: str
) -> None:
    for run in range(3):
        await history.fill(10, facts=3)
        await history.step(run + 1, ["g1"])
        await record(connection, store, f"rec{run}")
    assert await rows(database, "SELECT count(*), count(DISTINCT seq), max(seq) FROM event") == [(90, 30, 30)]
    assert await rows(database, "SELECT count(*), max(seq) FROM record") == [(6, 6)]


async def test_the_newer_of_two_recorders_goes_on_and_the_older_stops(
    history: Any, connection: Connection, store: Store, database: str
) -> None:
    older = Recorder(connection, store, "older")
    task = asyncio.create_task(older.run())
    await history.fill(200)
    await older.drain({EV: 1})
    async with running(connection, store, "newer") as newer:
        await history.fill(200)
        await newer.drain()
        with pytest.raises(RecorderFenced, match="replaced by 'newer'"):
            await task
    assert await rows(database, "SELECT count(*), count(DISTINCT seq) FROM event") == [(400, 400)]


async def test_an_envelope_that_does_not_continue_its_chain_is_damage(
    history: Any, connection: Connection, store: Store, database: str
) -> None:
    await history.commit(0)
    await history.commit(1)
    sequence = await history.commit(0, previous="f" * 32)
    damage = await failure(connection, store)
    assert isinstance(damage, LogDamaged)
    assert (damage.stream, damage.sequence) == (EV, sequence)
    assert "shard 0: previous is 'ffff" in str(damage)
    assert await rows(database, "SELECT count(*) FROM event") == [(0,)]


async def test_a_message_missing_from_the_log_is_damage(history: Any, connection: Connection, store: Store) -> None:
    for _ in range(5):
        await history.commit(0)
    await connection.api(f"STREAM.MSG.DELETE.{EV}", {"seq": 3})
    damage = await failure(connection, store)
    assert isinstance(damage, LogDamaged)
    assert "messages 3 to 3 are missing" in str(damage)
    async with running(connection, store) as recorder:
        with pytest.raises(LogDamaged):
            await recorder.drain()


async def test_a_log_that_came_back_shorter_is_damage(history: Any, connection: Connection, store: Store) -> None:
    await history.fill(8)
    await record(connection, store)
    await connection.api(f"STREAM.DELETE.{EV}")
    await ensure_streams(connection, shards=4)
    history.previous.clear()
    await history.commit(0)
    damage = await failure(connection, store)
    assert isinstance(damage, LogDamaged)
    assert "restore its tail from Postgres" in str(damage)


async def test_a_log_that_grew_again_to_the_same_length_is_damage(
    history: Any, connection: Connection, store: Store
) -> None:
    await history.fill(8)
    await record(connection, store)
    await connection.api(f"STREAM.DELETE.{EV}")
    await ensure_streams(connection, shards=4)
    history.previous.clear()
    await history.fill(9)
    assert isinstance(await failure(connection, store), LogDamaged)


async def test_one_version_of_an_entity_written_twice_is_damage(
    history: Any, connection: Connection, store: Store
) -> None:
    fact = history.fact()
    await history.commit(0, [fact])
    await history.commit(0, [fact])
    damage = await failure(connection, store)
    assert isinstance(damage, LogDamaged)
    assert fact.entity in str(damage)


@pytest.mark.parametrize("body", [b"", b"[]", b"hello", b'[1,0,1,"w"]'])
async def test_what_is_no_envelope_is_damage(history: Any, connection: Connection, store: Store, body: bytes) -> None:
    await history.commit(0)
    await history.publish("ev.0", body)
    damage = await failure(connection, store)
    assert isinstance(damage, LogDamaged)
    assert damage.sequence == 2


async def test_an_envelope_on_the_subject_of_another_shard_is_damage(
    history: Any, connection: Connection, store: Store
) -> None:
    await history.publish("ev.2", history.envelope(1, [history.fact()]))
    assert "shard 1 on subject 'ev.2'" in str(await failure(connection, store))


async def test_an_envelope_of_a_newer_format_stops_the_recorder(
    history: Any, connection: Connection, store: Store
) -> None:
    await history.commit(0, format=99)
    assert isinstance(await failure(connection, store), UnknownFormat)


async def test_text_that_postgres_cannot_hold_does_not_stop_the_log(
    history: Any, connection: Connection, store: Store
) -> None:
    await history.commit(0, [history.fact(entity="odd", traceparent="a\0b"), history.fact()])
    await record(connection, store)
    (event,) = await store.events_of_entity("acme", "run", "odd")
    assert event.fact.traceparent == "a\N{REPLACEMENT CHARACTER}b"


async def test_the_steps_that_served_a_request_are_found(history: Any, connection: Connection, store: Store) -> None:
    await history.step(1, ["g1"])
    await history.step(2, ["g1", "g2"])
    await record(connection, store)
    await history.step(3, ["g2"])
    await history.step(4, ["g1"])
    await history.step(1, ["g1"], epoch="epoch2")
    await record(connection, store, "rec2")
    steps = await steps_of_request(store, "g1")
    assert [(step.engine, step.epoch, step.n) for step in steps] == [
        ("tiny", "epoch1", 1),
        ("tiny", "epoch1", 2),
        ("tiny", "epoch1", 4),
        ("tiny", "epoch2", 1),
    ]
    assert codec.decode(steps[1].plan, StepPlan).n == 2
    assert len(steps[1].results) == 1
    assert [step.n for step in await steps_between(store, "tiny", "epoch1", 2, 3)] == [2, 3]
    assert await steps_of_request(store, "nobody") == []


async def test_frames_and_what_cannot_be_read_are_kept_in_the_trace(
    history: Any, connection: Connection, store: Store, database: str
) -> None:
    frame = codec.encode(Delta(subject="r1", thread="t1", effect="e1", version=2, offset=5, text="hi"))
    await history.publish("trace.acme.run.r1", frame)
    await history.publish("step.tiny.plan", b"\xff")
    await record(connection, store)
    assert await rows(database, "SELECT tenant, subject, producer, n, payload FROM record ORDER BY seq") == [
        ("acme", "trace.acme.run.r1", "e1", 5, frame),
        ("", "step.tiny.plan", "", None, b"\xff"),
    ]


async def test_a_gap_in_the_trace_is_written_down_and_passed_over(
    history: Any, connection: Connection, store: Store, database: str
) -> None:
    for n in range(1, 6):
        await history.step(n, ["g1"])
    for sequence in (3, 4, 7):
        await connection.api(f"STREAM.MSG.DELETE.{TRACE}", {"seq": sequence})
    await record(connection, store)
    assert await rows(database, "SELECT first, last FROM gap ORDER BY first") == [(3, 4), (7, 7)]
    assert await rows(database, "SELECT count(*) FROM record") == [(7,)]


@pytest.mark.parametrize("again", [1, 8])
async def test_a_trace_that_lost_its_tail_begins_a_new_incarnation(
    history: Any, connection: Connection, store: Store, database: str, again: int
) -> None:
    for n in range(1, 5):
        await history.step(n, ["g1"])
    await record(connection, store)
    await connection.api(f"STREAM.DELETE.{TRACE}")
    await ensure_streams(connection, shards=4)
    for n in (1, 2):  # what the disk gave back
        await history.step(n, ["g1"])
    for n in range(1, 1 + again):
        await history.step(n, ["g2"], epoch="epoch2")
    await record(connection, store, "rec2")
    assert await rows(database, "SELECT incarnation, count(*) FROM record GROUP BY 1 ORDER BY 1") == [
        (1, 8),
        (2, 2 * again),
    ]
    assert [step.n for step in await steps_of_request(store, "g2")] == list(range(1, 1 + again))
    await history.step(99, ["g3"])
    await record(connection, store, "rec3")
    assert await rows(database, "SELECT max(incarnation), count(*) FROM record") == [(2, 10 + 2 * again)]


async def test_lag_is_what_is_left_to_copy_and_drain_has_a_deadline(
    history: Any, connection: Connection, store: Store
) -> None:
    await history.fill(3)
    recorder = Recorder(connection, store, "rec1")
    assert await recorder.lag() == [Lag(EV, 0, 3), Lag(TRACE, 0, 0)]
    with pytest.raises(TimeoutError):
        await recorder.drain(deadline_s=0.05)
    await record(connection, store)
    async with running(connection, store, "rec2") as later:
        await later.drain({EV: 3})
        assert [lag.messages for lag in await later.lag()] == [0, 0]
