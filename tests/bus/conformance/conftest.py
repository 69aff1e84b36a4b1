"""The conformance suite of the log: append, fence, bounds, retry, read, trim, epoch.

All of it on one server and on a cluster of three, which answer a repeated append in different ways. Whatever else is
to hold the log one day must pass it unchanged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.connection import Connection
from bus.errors import Refused, Unavailable
from bus.streams import BLOBS, EV, NOT_FOUND, stream_configs
from infra.services.nats_server import NatsServer
from tests.bus.conformance.writing import Forgetful
from tests.system.foreign import Nodes, nats_servers

GOING = {10049, 10058}
"""JetStream's codes for a stream whose predecessor of that name is not gone yet."""
REMOVE_S = 30


@pytest.fixture(scope="package")
def cluster(open_folder: Path) -> Iterator[Nodes]:
    """Three nats-servers."""
    folder = open_folder / "cluster"
    folder.mkdir()
    with nats_servers(folder, 3) as nodes:
        yield nodes


@pytest.fixture(params=["one server", "three servers"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def nats_url(kind: str, request: pytest.FixtureRequest) -> str:
    """The URL of a NATS of that kind, which may have streams."""
    if kind == "three servers":
        return str(request.getfixturevalue("cluster").url)
    return str(request.getfixturevalue("nats_server").url)


@pytest.fixture
async def log(connection: Connection, kind: str) -> AsyncIterator[Connection]:
    """A connection to a NATS with the log's streams, empty."""
    replicas = 3 if kind == "three servers" else 1
    for config in stream_configs(4, replicas):
        if config["name"] in {EV, BLOBS}:
            await create(connection, config)
    yield connection
    for name in (EV, BLOBS):
        await remove(connection, name)


async def create(connection: Connection, config: dict[str, Any]) -> None:
    """Make a stream; one of that name that was just deleted may still be on its way out of the cluster."""
    while True:
        try:
            await connection.api(f"STREAM.CREATE.{config['name']}", config)
        except Refused as refusal:
            if refusal.code not in GOING:
                raise
        else:
            return


async def remove(connection: Connection, name: str) -> None:
    """Delete a stream; a cluster that has just lost a server may take seconds to choose who does that."""
    async with asyncio.timeout(REMOVE_S):
        while True:
            try:
                await connection.api(f"STREAM.DELETE.{name}")
            except Refused as refusal:
                if refusal.code == NOT_FOUND:
                    return
                await asyncio.sleep(0.05)
            except (Unavailable, TimeoutError):
                await asyncio.sleep(0.05)
            else:
                return


Restart = Callable[[], Awaitable[None]]


@pytest.fixture
def restart(kind: str, log: Connection, request: pytest.FixtureRequest) -> Restart:
    """Kill the server that takes the appends, and start it again."""
    if kind == "one server":
        server: NatsServer = request.getfixturevalue("nats_server")

        async def alone() -> None:
            await server.kill()
            await server.start(server.port)

        return alone
    nodes: Nodes = request.getfixturevalue("cluster")

    async def leader() -> None:
        node = nodes.named((await log.api(f"STREAM.INFO.{EV}"))["cluster"]["leader"])
        await asyncio.to_thread(node.kill)
        await asyncio.to_thread(node.start)

    return leader


@pytest.fixture
async def forgetful(log: Connection, nats_url: str) -> AsyncIterator[Forgetful]:
    async with await Forgetful.open(nats_url, "forgetful") as opened:
        yield opened
