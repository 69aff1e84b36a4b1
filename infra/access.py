"""Reaches a stack from outside: the one that runs on a data directory, or its servers started for a moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from actors.runtime.context import SystemIds
from bus import subjects
from bus.address import masked
from bus.connection import Connection
from bus.errors import Unavailable
from bus.inspection import bounds_of
from bus.projecting import live_builds
from bus.recorder import Recorder
from bus.store import Store
from bus.streams import EV
from infra.errors import AlreadyRunning, NoDataDirectory, NotRunning, ServerUnfit
from infra.privacy import known_master, opened_store
from infra.services.data_directory import DataDirectory, Runtime, made_shards
from infra.services.embedded import embedded
from infra.services.outside import check_outside, prepare_streams, remembered_outside

_ASK_S = 1.0
_RECORD_S = 5.0
"""How long the recorder of a stack that runs may take."""
_LOOK_S = 0.02


def runtime_of(data: str) -> Runtime:
    """Say what runs on a data directory.

    Raises:
        NotRunning: nothing does.
    """
    runtime = _live_runtime(Path(data))
    if runtime is None:
        raise NotRunning(Path(data))
    return runtime


@asynccontextmanager
async def recorded(data: str) -> AsyncIterator[Store]:
    """Open the record of a data directory, complete up to now, whether or not its stack runs.

    Raises:
        NoDataDirectory: there is none.
        InfraError: the servers cannot be started.
    """
    runtime, master = await asyncio.to_thread(lambda: (_live_runtime(_existing(data)), known_master(data)))
    if runtime is not None:
        async with await opened_store(runtime.urls["postgres"], master) as store:
            yield store
        return
    async with resting_log_servers(data) as (connection, store):
        await catch_up(connection, store)
        yield store


@asynccontextmanager
async def log_servers(data: str) -> AsyncIterator[tuple[Connection, Store]]:
    """Reach both copies of the log of a data directory, as they are, whether or not its stack runs.

    Raises:
        NoDataDirectory: there is none.
        InfraError: the servers cannot be started.
    """
    runtime, master = await asyncio.to_thread(lambda: (_live_runtime(_existing(data)), known_master(data)))
    if runtime is None:
        async with resting_log_servers(data) as both:
            yield both
        return
    async with (
        await opened_store(runtime.urls["postgres"], master) as store,
        await Connection.open(runtime.urls["nats"], "log") as connection,
    ):
        connection.keys = store.keys
        yield connection, store


@asynccontextmanager
async def resting_log_servers(data: str) -> AsyncIterator[tuple[Connection, Store]]:
    """Start the servers of a data directory whose stack does not run, for a while.

    Raises:
        NoDataDirectory: there is none.
        AlreadyRunning: its stack runs.
        ServerUnfit: its servers are somebody else's, and a stack runs on them.
        InfraError: the servers cannot be started.
    """
    path = await asyncio.to_thread(_existing, data)
    shards, outside = await asyncio.to_thread(lambda: (made_shards(path), remembered_outside(path)))
    master = await asyncio.to_thread(known_master, data)
    await check_outside(outside)
    async with (
        embedded(DataDirectory(path, shards=shards), outside) as servers,
        await opened_store(servers.postgres_url, master) as store,
        await Connection.open(servers.nats_url, "log") as connection,
    ):
        connection.keys = store.keys
        if outside.nats and await _somebody_runs(connection):
            problem, mend = "a stack runs on it, from elsewhere", "stop that one first"
            raise ServerUnfit("nats", masked(outside.nats), problem, mend)
        await prepare_streams(connection, shards, outside)
        yield connection, store


async def _somebody_runs(connection: Connection) -> bool:
    try:
        await connection.request(subjects.status("host"), b"", _ASK_S)
    except (Unavailable, TimeoutError):
        return False
    return True


def _existing(data: str) -> Path:
    path = Path(data)
    if not (path / "format").exists():
        raise NoDataDirectory(path)
    return path


def _live_runtime(path: Path) -> Runtime | None:
    """What is recorded as running, if its process is still there."""
    directory = DataDirectory(path)
    try:
        directory.refuse_if_held()
    except AlreadyRunning:
        return directory.read_runtime()
    return None


@asynccontextmanager
async def current_record(data: str) -> AsyncIterator[tuple[Store, int]]:
    """Open the record of a data directory once it holds what the log held when this was called.

    Gives with it how many envelopes are yet to be recorded: 0, unless the stack's recorder is away for long.

    Raises:
        NoDataDirectory: there is none.
        InfraError: the servers cannot be started.
        BusError: a server cannot be reached.
    """
    runs = await asyncio.to_thread(lambda: _live_runtime(_existing(data))) is not None
    async with log_servers(data) as (connection, store):
        if not runs:
            await catch_up(connection, store)
        yield store, await behind(connection, store)


async def behind(connection: Connection, store: Store, patience_s: float = _RECORD_S) -> int:
    """Wait until the record holds what the log holds now; say how many envelopes it still lacks when patience ends.

    Raises:
        BusError: a server cannot be reached.
        TimeoutError: JetStream does not answer.
    """
    last = (await bounds_of(connection)).last
    end = time.monotonic() + patience_s
    while True:
        cursor = await store.cursor(EV)
        lacking = last - (cursor.sequence if cursor is not None else 0)
        if lacking <= 0 or time.monotonic() > end:
            return max(0, lacking)
        await asyncio.sleep(_LOOK_S)


async def projected(store: Store, name: str, patience_s: float) -> None:
    """Wait until a projection holds what the record holds now, so long at most.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    builds, end = await live_builds(store)
    until = time.monotonic() + patience_s
    while any(build.at < end for build in builds if build.name == name) and time.monotonic() < until:
        await asyncio.sleep(_LOOK_S)
        builds, _ = await live_builds(store)


async def catch_up(connection: Connection, store: Store) -> None:
    """Record what the stack, had it not been killed, would have recorded itself."""
    recorder = Recorder(connection, store, SystemIds().new("p"))
    copying = asyncio.create_task(recorder.run())
    try:
        await recorder.drain(deadline_s=60)
    finally:
        copying.cancel()
        await asyncio.wait({copying})
