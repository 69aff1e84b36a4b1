"""Whatever dies under the recorder, and whenever, every event is in Postgres once."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from bus.connection import Connection
from bus.recorder import Recorder
from bus.store import Store
from bus.streams import EV, TRACE, ensure_streams
from infra.services.embedded import Servers

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(60)]

ROOT = Path(__file__).parents[2]
PROCESS = """
import asyncio, sys
import bus.feed
from bus.connection import Connection
from bus.recorder import Recorder
from bus.store import Store

bus.feed.BATCH = 50  # many transactions to die in

async def main(nats: str, postgres: str, name: str) -> None:
    async with await Connection.open(nats, name) as connection, await Store.open(postgres) as store:
        print("running", flush=True)
        await Recorder(connection, store, name).run()

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def process(nats_url: str, database: str, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a recorder in a process of its own, which is killed at the end."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROCESS, nats_url, database, name,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert started.stdout is not None
    try:
        assert await started.stdout.readline() == b"running\n"
        yield started
    finally:
        with suppress(ProcessLookupError):
            os.kill(started.pid, signal.SIGKILL)
        await started.communicate()


@asynccontextmanager
async def cut_after(port: int, size: int, times: int) -> AsyncIterator[str]:
    """Yield the URL of a way to NATS that breaks, `times` times, once it has carried `size` bytes to the client."""
    lives = itertools.count()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: float) -> None:
        carried = 0
        with suppress(OSError):
            while carried < limit and (data := await reader.read(4096)):
                writer.write(data)
                await writer.drain()
                carried += len(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        limit = size if next(lives) < times else float("inf")
        async with asyncio.TaskGroup() as both:
            both.create_task(carry(server_reader, writer, limit))
            both.create_task(carry(reader, server_writer, float("inf")))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def running(connection: Connection, store: Store) -> AsyncIterator[Recorder]:
    recorder = Recorder(connection, store, "rec1")
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def everything_once(database: str, envelopes: int, facts: int, records: int = 0) -> None:
    client = await asyncpg.connect(database)
    try:
        whole = envelopes * facts
        row = await client.fetchrow("SELECT count(*), count(DISTINCT entity), count(DISTINCT seq) FROM event")
        assert tuple(row) == (whole, whole, envelopes if facts else 0)
        assert await client.fetchval("SELECT count(*) FROM commit") == envelopes
        row = await client.fetchrow("SELECT count(*), count(DISTINCT (subject, producer, n)) FROM record")
        assert tuple(row) == (records, records)
        assert await client.fetchval("SELECT count(*) FROM gap") == 0
        heads = "SELECT count(*) FROM shard_head JOIN commit USING (shard, incarnation, seq, hash)"
        assert await client.fetchval(heads) == min(4, envelopes)
    finally:
        await client.close()


async def test_a_recorder_killed_at_any_moment_loses_and_doubles_nothing(
    history: Any, nats_url: str, connection: Connection, store: Store, database: str
) -> None:
    async def write() -> None:
        for n in range(40):
            await history.fill(100, facts=8)
            await history.step(n, ["g1"])

    writing = asyncio.create_task(write())
    reached = [0]
    while len(reached) < 25 and reached[-1] < 4000:
        async with process(nats_url, database, f"life{len(reached)}") as started:
            with suppress(TimeoutError):
                await asyncio.wait_for(started.wait(), 0.02 * (len(reached) % 8))
            assert started.returncode is None
        cursor = await store.cursor(EV)
        reached.append(cursor.sequence if cursor else 0)
    await writing
    assert len(set(reached)) > 3, f"the kills did not fall into the work: {reached}"
    async with running(connection, store) as recorder:
        await recorder.drain(deadline_s=20)
    await everything_once(database, 4000, 8, 80)


async def test_two_recorders_at_once_write_everything_once_and_one_of_them_stops(
    history: Any, nats_url: str, connection: Connection, store: Store, database: str
) -> None:
    await history.fill(2000, facts=4)
    async with process(nats_url, database, "one") as one, process(nats_url, database, "two") as two:
        await history.fill(1900, facts=4)
        ends = [asyncio.create_task(each.wait()) for each in (one, two)]
        done, going = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == len(going) == 1
        fenced = one if ends[0] in done else two
        assert fenced.stderr is not None
        assert b"RecorderFenced" in await fenced.stderr.read()
        await history.fill(100, facts=4)
        async with running(connection, store) as recorder:
            await recorder.drain()
    await everything_once(database, 4000, 4)


@pytest.mark.parametrize("end", ["restart", "kill"])
async def test_postgres_going_away_is_waited_for(
    history: Any, servers: Servers, connection: Connection, store: Store, database: str, end: str
) -> None:
    async with running(connection, store) as recorder:
        for _ in range(3):
            writing = asyncio.create_task(history.fill(400, facts=4))
            if end == "kill":
                await servers.postgres.kill()
                await servers.postgres.start()
            else:
                await servers.postgres.restart()
            await writing
        await servers.postgres.stop()
        await history.fill(100, facts=4)
        await history.step(1, ["g1"])
        with pytest.raises(TimeoutError):
            await recorder.drain({EV: 1300}, deadline_s=0.3)
        await servers.postgres.start()
        await recorder.drain({EV: 1300, TRACE: 2}, deadline_s=20)
    await everything_once(database, 1300, 4, 2)


@pytest.mark.parametrize("end", ["restart", "kill"])
async def test_nats_going_away_is_waited_for(
    history: Any, servers: Servers, connection: Connection, store: Store, database: str, end: str
) -> None:
    back = asyncio.Event()

    async def reconnected() -> None:
        back.set()

    connection.on_reconnect(reconnected)
    async with running(connection, store) as recorder:
        for number in range(3):
            await history.fill(300, facts=4)
            if end == "kill":
                await servers.nats.kill()
                await servers.nats.start()
            else:
                await servers.nats.restart()
            await back.wait()
            back.clear()
            await history.step(number, ["g1"])
        await history.fill(100, facts=4)
        await recorder.drain({EV: 1000, TRACE: 6}, deadline_s=20)
    await everything_once(database, 1000, 4, 6)


async def test_a_connection_cut_in_the_middle_of_a_delivery_is_not_taken_for_damage(
    history: Any, servers: Servers, store: Store, database: str
) -> None:
    await history.fill(2000, facts=4)
    async with (
        cut_after(servers.nats.port, 300_000, 5) as url,
        await Connection.open(url, "cut") as connection,
        running(connection, store) as recorder,
    ):
        for number in range(5):
            await history.fill(200, facts=4)
            await history.step(number, ["g1"])
        await recorder.drain({EV: 3000, TRACE: 10}, deadline_s=20)
        assert connection.client.stats["reconnects"] >= 5
    await everything_once(database, 3000, 4, 10)


async def test_a_stream_that_is_not_there_yet_is_waited_for(
    history: Any, connection: Connection, store: Store, database: str
) -> None:
    await connection.api(f"STREAM.DELETE.{EV}")
    async with running(connection, store) as recorder:
        with pytest.raises(TimeoutError):
            await recorder.drain({EV: 1}, deadline_s=0.3)
        await ensure_streams(connection, shards=4)
        await history.commit(0)
        await recorder.drain({EV: 1})
    await everything_once(database, 1, 1)
