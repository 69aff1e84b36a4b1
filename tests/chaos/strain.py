"""What a system has to bear: a slow database, readers that do not read, clocks that are wrong, everything twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg

from actors.runtime.context import SystemIds
from bus import subjects
from bus.connection import Connection
from bus.recorder import Recorder
from bus.store import RecorderFenced, Store
from tests.chaos.fault import Ground, from_its_end
from tests.chaos.link import Weather
from tests.chaos.links import POSTGRES
from tests.chaos.network import links_of
from tests.chaos.processes import bounded_memory

LASTS_S = 4.0
HOUR_S = 3600
SLOW_S = 0.1
"""Of each message to and from Postgres: a transaction of the recorder takes ten times as long."""
FENCED_S = 20.0
FLOOD = 20_000
"""Frames for the trace while Postgres is slow."""
FRAME = b'{"type":"flood","text":"%b"}' % (b"x" * 1000)
_EACH = 500
_FULL = b"x" * 64 * 1024
CUT_OFF = 1600
"""Messages of 64 KiB: more than the 64 MiB that nats-server keeps for a reader that does not read."""
GROWTH_MB = 96
"""What a process of ours may grow by."""
NATS_GROWTH_MB = 320
"""What nats-server may grow by: what it keeps for one reader, and as much garbage again and again."""


@from_its_end
async def everything_twice(ground: Ground, chance: random.Random) -> None:
    """Have all clients send all that they send twice, and a third time as another message."""
    ground.ledger.twice = True
    try:
        await asyncio.sleep(LASTS_S)
    finally:
        ground.ledger.twice = False


@asynccontextmanager
async def clock_an_hour_off(ground: Ground, chance: random.Random) -> AsyncIterator[float]:
    """Have one agents process live an hour ahead or behind, and take over what the other did."""
    await asyncio.to_thread(ground.stack.skew, "agents-1", chance.choice((-HOUR_S, HOUR_S)))
    try:
        began = time.monotonic()
        os.kill(ground.stack.pid("agents-0"), signal.SIGKILL)
        yield began
        await asyncio.sleep(max(0.0, began + LASTS_S - time.monotonic()))
    finally:
        await asyncio.to_thread(ground.stack.skew, "agents-1", 0)


@from_its_end
async def slow_postgres(ground: Ground, chance: random.Random) -> None:
    """Make every word to and from Postgres late, and give the recorder much to copy: it may not keep it in memory."""
    limits = {name: (ground.stack.pid(name), GROWTH_MB) for name in ("recorder-0", "agents-0", "agents-1")}
    async with bounded_memory(limits), links_of(ground).weather(Weather(delay_s=SLOW_S), POSTGRES):
        began = time.monotonic()
        async with await Connection.open(ground.stack.urls()["nats"], "flood") as connection:
            for _ in range(0, FLOOD, _EACH):
                for _ in range(_EACH):
                    await connection.publish(subjects.frames("default", "run", "flood"), FRAME)
                await connection.flush()
        await asyncio.sleep(max(0.0, began + LASTS_S - time.monotonic()))


@from_its_end
async def two_recorders(ground: Ground, chance: random.Random) -> None:
    """Start another recorder beside the stack's, twice: the older one is fenced, and comes again as the newer."""
    urls = ground.stack.urls()
    async with (
        asyncio.timeout(FENCED_S),
        await Connection.open(urls["nats"], "second") as connection,
        await Store.open(urls["postgres"]) as store,
    ):
        for _ in range(2):
            with contextlib.suppress(RecorderFenced):
                await Recorder(connection, store, SystemIds().new("p")).run()


@from_its_end
async def postgres_locked(ground: Ground, chance: random.Random) -> None:
    """Keep the tables that the recorder writes to locked, as a long migration does."""
    limits = {name: (ground.stack.pid(name), GROWTH_MB) for name in ("recorder-0", "agents-0", "agents-1")}
    connection = await asyncpg.connect(ground.stack.urls()["postgres"], timeout=LASTS_S)
    try:
        async with bounded_memory(limits), connection.transaction():
            await connection.execute("LOCK TABLE cursor, event IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(LASTS_S)
    finally:
        await connection.close(timeout=LASTS_S)


@from_its_end
async def slow_consumer(ground: Ground, chance: random.Random) -> None:
    """Subscribe to all that is told live, read nothing, and have very much told: the reader is cut off, nobody else."""
    url = ground.stack.urls()["nats"]
    limits = {name: (ground.stack.pid(name), GROWTH_MB) for name in ("agents-0", "agents-1", "recorder-0")}
    limits["nats"] = (ground.stack.pid("nats"), NATS_GROWTH_MB)
    async with bounded_memory(limits):
        with contextlib.closing(await asyncio.to_thread(_deaf, url)) as deaf:
            async with await Connection.open(url, "flood") as connection:
                for _ in range(CUT_OFF):
                    await connection.publish(subjects.live("default", "run", "flood"), _FULL)
                    await connection.flush()
            await asyncio.to_thread(_see_cut_off, deaf)


def _deaf(url: str) -> socket.socket:
    address = urlsplit(url)
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.settimeout(LASTS_S)
    deaf.connect((address.hostname, address.port))
    deaf.sendall(b'CONNECT {"verbose":false,"name":"deaf"}\r\nSUB live.> 1\r\nPING\r\n')
    return deaf


def _see_cut_off(deaf: socket.socket) -> None:
    """Read what there is: it must end."""
    with contextlib.suppress(ConnectionResetError):
        while deaf.recv(1 << 20):
            pass
