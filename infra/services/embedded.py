"""Both servers together, for as long as a `with` block runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.services.data_directory import DataDirectory, Runtime
from infra.services.nats_server import NatsServer
from infra.services.postgres import Postgres
from infra.services.unprivileged import SYSTEM_FOLDER, place


@dataclass(frozen=True, slots=True)
class Servers:
    """The running servers; each can be polled and restarted by itself."""

    directory: DataDirectory
    nats: NatsServer
    postgres: Postgres

    @property
    def nats_url(self) -> str:
        """Where NATS clients connect."""
        return self.nats.url

    @property
    def postgres_url(self) -> str:
        """Where Postgres clients connect, with our database."""
        return self.postgres.url

    async def record(self, **urls: str) -> None:
        """Write down what runs; call again after a restart, or to make more URLs known (`http=...`)."""
        runtime = Runtime(
            pid=os.getpid(),
            pids={"nats": self.nats.pid, "postgres": self.postgres.pid},
            ports={"nats": self.nats.port, "postgres": self.postgres.port},
            urls={"nats": self.nats_url, "postgres": self.postgres_url, **urls},
        )
        await asyncio.to_thread(self.directory.write_runtime, runtime)


@asynccontextmanager
async def embedded(
    directory: DataDirectory,
    *,
    nats_binary: Path | None = None,
    postgres_binaries: Path | None = None,
    system: Path = SYSTEM_FOLDER,
) -> AsyncIterator[Servers]:
    """Run nats-server and Postgres on a data directory, which is held until the block ends.

    Raises:
        DataDirectoryError: the directory cannot be used.
        ServerError: a server cannot be run.
    """
    await asyncio.to_thread(directory.open)
    try:
        placement = await asyncio.to_thread(place, directory, system)
        servers = Servers(
            directory, NatsServer(directory, placement, nats_binary), Postgres(directory, placement, postgres_binaries)
        )
        try:
            await _start(servers)
            yield servers
        finally:
            await asyncio.gather(servers.nats.stop(), servers.postgres.stop())
            await asyncio.to_thread(directory.remove_runtime)
    finally:
        directory.close()


async def _start(servers: Servers) -> None:
    outcomes = await asyncio.gather(servers.nats.start(), servers.postgres.start(), return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
    await servers.record()
