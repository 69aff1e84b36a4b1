"""Reaches a stack from outside: the one that runs on a data directory, or its servers started for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from actors.runtime.context import SystemIds
from bus.connection import Connection
from bus.recorder import Recorder
from bus.store import Store
from infra.errors import AlreadyRunning, NoDataDirectory, NotRunning
from infra.services.data_directory import DataDirectory, Runtime, made_shards
from infra.services.embedded import embedded
from infra.services.outside import check_outside, prepare_streams, remembered_outside


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
    path = Path(data)
    if not (path / "format").exists():
        raise NoDataDirectory(path)
    runtime = _live_runtime(path)
    if runtime is not None:
        async with await Store.open(runtime.urls["postgres"]) as store:
            yield store
        return
    shards, outside = made_shards(path), remembered_outside(path)
    await check_outside(outside)
    async with (
        embedded(DataDirectory(path, shards=shards), outside) as servers,
        await Store.open(servers.postgres_url) as store,
        await Connection.open(servers.nats_url, "replay") as connection,
    ):
        await prepare_streams(connection, shards, outside)
        await _catch_up(connection, store)
        yield store


def _live_runtime(path: Path) -> Runtime | None:
    """What is recorded as running, if its process is still there."""
    directory = DataDirectory(path)
    try:
        directory.refuse_if_held()
    except AlreadyRunning:
        return directory.read_runtime()
    return None


async def _catch_up(connection: Connection, store: Store) -> None:
    """Record what the stack, had it not been killed, would have recorded itself."""
    recorder = Recorder(connection, store, SystemIds().new("p"))
    copying = asyncio.create_task(recorder.run())
    try:
        await recorder.drain(deadline_s=60)
    finally:
        copying.cancel()
        await asyncio.wait({copying})
