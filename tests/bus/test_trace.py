"""What is kept of live text: all of it while the server takes it, a counted part when it does not, never waited for."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import trace as module
from bus.connection import Connection
from bus.errors import IngestLost
from bus.feed import Feed, FeedLost
from bus.ingest import FLOW, OUTSTANDING, Batch, Ingest, Word
from bus.streams import TRACE, ensure_streams, stream_configs
from bus.trace import Trace
from infra.services.nats_server import NatsServer
from schemas import codec
from schemas.live import Shed
from tests.system.foreign import nats_servers

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(20)]

SUBJECTS = ["trace.acme.run.r1", "trace.acme.run.r2"]


async def stored(connection: Connection) -> list[tuple[str, bytes]]:
    """Everything the stream holds."""
    last = (await connection.api(f"STREAM.INFO.{TRACE}"))["state"]["last_seq"]
    while True:  # bounded by the test's deadline
        feed = await Feed.open(connection, TRACE, 1)
        items = []
        try:
            while len(items) < last:
                items += await feed.batch(0.01)
        except FeedLost:  # a cluster may move what is read with: whoever reads begins again
            continue
        finally:
            await feed.close()
        return [(item.subject, item.data) for item in items]


def sheds(records: list[tuple[str, bytes]]) -> list[tuple[str, Shed]]:
    return [(subject, codec.decode(data, Shed)) for subject, data in records if b'"shed"' in data]


@pytest.fixture
async def streams(connection: Connection) -> Connection:
    await ensure_streams(connection, 1)
    return connection


@pytest.fixture
def paused(nats_server: NatsServer) -> Iterator[int]:
    """The server's process, which goes on at the end whatever the test did."""
    yield nats_server.pid
    os.kill(nats_server.pid, signal.SIGCONT)


async def test_what_is_kept_is_stored_in_order_once(streams: Connection) -> None:
    records = [(SUBJECTS[number % 2], b"%d" % number) for number in range(5 * FLOW + 7)]
    async with Trace(streams, "p1") as trace:
        for record in records:
            trace.keep(*record)
    assert await stored(streams) == records
    assert trace.statistics() == {"kept": len(records), "waiting_bytes": 0, "shed": 0}


async def test_what_was_sent_is_known_to_be_stored_at_the_end(streams: Connection) -> None:
    async with Trace(streams, "p1") as trace:
        trace.keep(SUBJECTS[0], b"1")
        while not await stored(streams):
            pass
        assert trace.statistics()["waiting_bytes"] > 0
    assert trace.statistics()["kept"] == 1


async def test_a_batch_that_rests_is_ended_and_the_next_begins(
    streams: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LINGER_S", 0.02)
    async with Trace(streams, "p1") as trace:
        for number in range(1, 4):
            trace.keep(SUBJECTS[0], b"%d" % number)
            while trace.statistics()["kept"] < number:  # noqa: ASYNC110  bounded by the test's deadline
                await asyncio.sleep(0.005)
    assert [data for _, data in await stored(streams)] == [b"1", b"2", b"3"]


async def test_a_paused_server_costs_records_that_are_counted_and_nothing_waits(
    streams: Connection, paused: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "ROOM_BYTES", 256 << 10)
    count, data = 20_000, b"x" * 150
    async with Trace(streams, "p1") as trace:
        trace.keep(SUBJECTS[0], data)
        await asyncio.sleep(0)
        os.kill(paused, signal.SIGSTOP)
        began, slowest = time.monotonic(), 0.0
        for number in range(1, count):
            before = time.perf_counter()
            trace.keep(SUBJECTS[number % 2], data)
            slowest = max(slowest, time.perf_counter() - before)
            if number % 500 == 0:
                await asyncio.sleep(0)
        assert slowest < 0.1
        assert trace.statistics()["waiting_bytes"] <= 256 << 10
        # what must not be lost has the link to itself, but for one window of records
        assert streams.client.pending_data_size < FLOW * OUTSTANDING * 400
        assert time.monotonic() - began < 2, "the server would have been given up"
        os.kill(paused, signal.SIGCONT)
    statistics = trace.statistics()
    records = await stored(streams)
    told = sheds(records)
    assert statistics["shed"] == sum(shed.count for _, shed in told) > count // 2
    assert len(records) - len(told) + statistics["shed"] == count
    assert [subject for subject, _ in told] == SUBJECTS or [subject for subject, _ in told] == SUBJECTS[::-1]
    assert all(shed.producer == "p1" and shed.last - shed.first + 1 >= shed.count for _, shed in told)
    assert "nothing more is kept" in caplog.text
    assert "records of 2 entities were left out" in caplog.text


@pytest.fixture
def cluster(folder: Path) -> Iterator[str]:
    """Where three nats-servers are."""
    with nats_servers(folder, 3) as nodes:
        yield nodes.url


@pytest.mark.deadline(40)
async def test_a_cluster_stores_all_of_it_in_three_copies(cluster: str) -> None:
    records = [(SUBJECTS[0], b"%d" % number) for number in range(3 * FLOW)]
    async with await Connection.open(cluster, "test", wait_s=10) as connection:
        await ensure_streams(connection, 1, replicas=3)
        async with Trace(connection, "p1") as trace:
            for record in records:
                trace.keep(*record)
            while trace.statistics()["waiting_bytes"]:  # noqa: ASYNC110  bounded by the test's deadline
                await asyncio.sleep(0.02)
        assert await stored(connection) == records


async def test_a_server_that_restarts_gets_what_it_had_not_confirmed(
    streams: Connection, nats_server: NatsServer
) -> None:
    records = [(SUBJECTS[0], b"%d" % number) for number in range(3 * FLOW)]
    async with Trace(streams, "p1") as trace:
        for record in records[:FLOW]:
            trace.keep(*record)
        restarting = asyncio.create_task(nats_server.restart())
        for record in records[FLOW:]:
            trace.keep(*record)
            await asyncio.sleep(0)
        await restarting
        while trace.statistics()["waiting_bytes"]:  # noqa: ASYNC110  bounded by the test's deadline
            await asyncio.sleep(0.02)
    found = Counter(await stored(streams))
    assert set(found) == set(records)
    assert trace.statistics()["shed"] == 0


async def test_nothing_waits_for_a_stream_that_is_not_there(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Trace(connection, "p1") as trace:
        trace.keep(SUBJECTS[0], b"1")
    assert trace.statistics()["kept"] == 0
    assert "no stream takes" in caplog.text
    assert "1 records were not kept" in caplog.text


async def test_a_stream_made_before_there_was_fast_ingest_takes_it_after_the_next_start(
    connection: Connection,
) -> None:
    (config,) = [config for config in stream_configs(1) if config["name"] == TRACE]
    await connection.api(f"STREAM.CREATE.{TRACE}", {name: config[name] for name in config if name != "allow_batched"})
    ingest = await Ingest.open(connection)
    with pytest.raises(IngestLost, match="disabled"):
        await ingest.send(SUBJECTS[0], b"1")
    assert ingest.give_up() == [(SUBJECTS[0], b"1")]
    await ensure_streams(connection, 1)
    await ingest.send(SUBJECTS[0], b"2")
    assert await ingest.end() == [(SUBJECTS[0], b"2")]
    await ingest.close()
    assert await stored(connection) == [(SUBJECTS[0], b"2")]


async def test_a_gap_ends_a_batch_and_nothing_is_taken_for_stored_that_may_not_be(streams: Connection) -> None:
    ingest = await Ingest.open(streams)
    known = []
    for number in range(5):
        known += await ingest.send(SUBJECTS[0], b"%d" % number)
    assert ingest._batch is not None
    ingest._batch.sent += 1  # as if one had been lost on the way

    async def go_on() -> None:
        for number in range(5, 5 * FLOW):
            known.extend(await ingest.send(SUBJECTS[0], b"%d" % number))

    with pytest.raises(IngestLost, match="number 7 of the batch"):
        await go_on()
    unknown = ingest.give_up()
    assert [int(data) for _, data in known + unknown] == list(range(len(known + unknown)))
    assert {*known} <= {*await stored(streams)}
    await ingest.close()


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, FLOW)), max_size=20))
def test_acknowledgements_in_any_order_never_take_back_what_is_stored(words: list[tuple[int, int]]) -> None:
    batch = Batch("b1", 0)
    for sequence, every in words:
        before = batch.confirmed
        batch.hear(Word("ack", sequence, every))
        assert batch.confirmed == max(before, sequence)
        assert batch.flow == every
    batch.hear(Word("gap", 9))
    batch.hear(Word(error={"description": "unknown"}))
    assert batch.failure is not None
    assert "number 9" in batch.failure
