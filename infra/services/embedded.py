"""Both servers together, for as long as a `with` block runs; one that somebody else runs is only used."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.services.data_directory import DataDirectory, Runtime
from infra.services.nats_server import NatsServer
from infra.services.outside import Outside, OutsideServer
from infra.services.postgres import Postgres
from infra.services.unprivileged import SYSTEM_FOLDER, place


@dataclass(frozen=True, slots=True)
class Servers:
    """The running servers; each of our own can be polled and restarted by itself."""

    directory: DataDirectory
    nats: NatsServer | OutsideServer
    postgres: Postgres | OutsideServer

    @property
    def own(self) -> dict[str, NatsServer | Postgres]:
        """Those that we run, by name."""
        both = {"nats": self.nats, "postgres": self.postgres}
        return {name: server for name, server in both.items() if not isinstance(server, OutsideServer)}

    @property
    def nats_url(self) -> str:
        """Where NATS clients connect."""
        return self.nats.url

    @property
    def postgres_url(self) -> str:
        """Where Postgres clients connect, with our database."""
        return self.postgres.url

    async def record(self, served: tuple[str, ...] = (), **urls: str) -> None:
        """Write down what runs; call again after a restart, or to make more URLs known (`http=...`)."""
        runtime = Runtime(
            pid=os.getpid(),
            pids={name: server.pid for name, server in self.own.items()},
            ports={name: server.port for name, server in self.own.items()},
            urls={"nats": self.nats_url, "postgres": self.postgres_url, **urls},
            served=served,
        )
        await asyncio.to_thread(self.directory.write_runtime, runtime)


@asynccontextmanager
async def embedded(
    directory: DataDirectory,
    outside: Outside = Outside(),  # noqa: B008  frozen
    *,
    nats_binary: Path | None = None,
    postgres_binaries: Path | None = None,
    system: Path = SYSTEM_FOLDER,
) -> AsyncIterator[Servers]:
    """Run nats-server and Postgres, but for those `outside`, on a data directory, which is held until the block ends.

    Raises:
        DataDirectoryError: the directory cannot be used.
        ServerError: a server cannot be run.
    """
    await asyncio.to_thread(directory.open)
    try:
        placement = await asyncio.to_thread(place, directory, system)
        servers = Servers(
            directory,
            OutsideServer(outside.nats) if outside.nats else NatsServer(directory, placement, nats_binary),
            OutsideServer(outside.postgres) if outside.postgres else Postgres(directory, placement, postgres_binaries),
        )
        try:
            await _start(servers)
            yield servers
        finally:
            await asyncio.gather(*(server.stop() for server in servers.own.values()))
            await asyncio.to_thread(directory.remove_runtime)
    finally:
        directory.close()


async def _start(servers: Servers) -> None:
    outcomes = await asyncio.gather(*(server.start() for server in servers.own.values()), return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
    await servers.record()
