"""What an owner asks of the record comes to an end in time, also when Postgres says nothing at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from bus.log import START
from bus.snapshots import Checkpoint, Fold, ThreadKey
from infra import readback
from infra.readback import LateStore

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(20)]


class Line:
    """A line to Postgres that can fall silent: connections stay, and nothing comes over them."""

    def __init__(self, url: str) -> None:
        self._there = urlsplit(url)
        self.url = url
        self.open = asyncio.Event()
        self.open.set()
        self.tasks: set[asyncio.Task[None]] = set()

    async def connected(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """Join a client to the server."""
        far, there = await asyncio.open_connection(self._there.hostname, self._there.port)
        for source, sink in ((near, there), (far, back)):
            self.tasks.add(asyncio.create_task(self._pass_on(source, sink)))

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                await self.open.wait()
                sink.write(data)
        finally:
            sink.close()


@pytest.fixture
async def line(database: str) -> AsyncIterator[Line]:
    made = Line(database)
    server = await asyncio.start_server(made.connected, "127.0.0.1", 0)
    made.url = database.replace(str(urlsplit(database).port), str(server.sockets[0].getsockname()[1]))
    yield made
    server.close()
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


async def test_a_record_that_falls_silent_holds_nobody_up(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readback, "_HEAD_S", 0.1)
    monkeypatch.setattr(readback, "_READ_S", 0.1)
    key, folds = ThreadKey("agent", "acme", "t1"), {"agent": Fold(("run",), "x")}
    async with LateStore(line.url) as record:
        assert (await record.histories([key], folds, None))[key].events == []
        line.open.clear()
        began = time.monotonic()
        assert await record.head(0) == START
        assert await record.checkpoint(0) is None
        with pytest.raises(TimeoutError):
            await record.histories([key], folds, None)
        with pytest.raises(TimeoutError):
            await record.keep(0, Checkpoint(1, "hash", (), b""), ())
        assert time.monotonic() - began < 2
        line.open.set()
        monkeypatch.setattr(readback, "_READ_S", 5.0)
        assert key in await record.histories([key], folds, None)
