"""The bad network is as bad as it says, and no worse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.chaos.link import Link, Weather

pytestmark = pytest.mark.anyio
Open = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
BROKEN = (ConnectionError, asyncio.IncompleteReadError)


@asynccontextmanager
async def linked(folder: Path) -> AsyncIterator[tuple[Link, Open, list[bytes]]]:
    """Run a server that repeats what it hears, and a link to it; list what the server heard."""
    heard: list[bytes] = []

    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(100):
                heard.append(chunk)
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(repeat, "127.0.0.1", 0)
    runtime = folder / "runtime.json"
    runtime.write_text(json.dumps({"ports": {"nats": server.sockets[0].getsockname()[1]}}), encoding="utf-8")
    link = Link(runtime, "nats")
    port = await link.listen()
    opened: list[asyncio.StreamWriter] = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        opened.append(writer)
        return reader, writer

    async with server:
        try:
            yield link, connect, heard
        finally:
            await link.close()
            for writer in opened:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()


async def said(reader: asyncio.StreamReader, count: int, seconds: float = 2.0) -> bytes:
    async with asyncio.timeout(seconds):
        return await reader.readexactly(count)


async def test_in_fair_weather_all_passes(tmp_path: Path) -> None:
    async with linked(tmp_path) as (_, connect, _heard):
        reader, writer = await connect()
        writer.write(b"hello")
        assert await said(reader, 5) == b"hello"


async def test_a_delay_is_that_of_each_way_and_does_not_change_the_order(tmp_path: Path) -> None:
    async with linked(tmp_path) as (link, connect, _heard):
        reader, writer = await connect()
        link.change(Weather(delay_s=0.05))
        began = time.monotonic()
        for part in (b"a", b"b", b"c"):
            writer.write(part)
            await writer.drain()
        assert await said(reader, 3) == b"abc"
        assert time.monotonic() - began >= 0.1


@pytest.mark.parametrize("weather", [Weather(up=False, down=False), Weather(up=False), Weather(down=False)])
async def test_what_is_held_comes_when_the_link_heals(tmp_path: Path, weather: Weather) -> None:
    async with linked(tmp_path) as (link, connect, heard):
        reader, writer = await connect()
        writer.write(b"before")
        assert await said(reader, 6) == b"before"
        link.change(weather)
        writer.write(b"during")
        with pytest.raises(TimeoutError):
            await said(reader, 1, 0.1)
        assert heard == ([b"before", b"during"] if weather.up else [b"before"])
        link.change(Weather())
        assert await said(reader, 6) == b"during"


async def test_what_was_held_may_be_lost_with_its_connection(tmp_path: Path) -> None:
    async with linked(tmp_path) as (link, connect, heard):
        reader, writer = await connect()
        writer.write(b"before")
        assert await said(reader, 6) == b"before"
        link.change(Weather(up=False, down=False, late=False))
        writer.write(b"during")
        await writer.drain()
        link.change(Weather())
        with pytest.raises(BROKEN):
            await said(reader, 1)
        reader, writer = await connect()
        writer.write(b"after")
        assert await said(reader, 5) == b"after"
        assert b"during" not in heard


async def test_a_half_open_link_takes_connections_and_says_nothing(tmp_path: Path) -> None:
    async with linked(tmp_path) as (link, connect, heard):
        link.change(Weather(up=False, down=False))
        reader, writer = await connect()
        writer.write(b"hello")
        with pytest.raises(TimeoutError):
            await said(reader, 1, 0.1)
        assert heard == []
        link.change(Weather())
        assert await said(reader, 5) == b"hello"


@pytest.mark.parametrize("weather", [Weather(refuses=True), Weather(resets=100)])
async def test_a_link_breaks_connections(tmp_path: Path, weather: Weather) -> None:
    async with linked(tmp_path) as (link, connect, _heard):
        reader, writer = await connect()
        writer.write(b"hello")
        assert await said(reader, 5) == b"hello"
        link.change(weather)
        with pytest.raises(BROKEN):
            await said(reader, 1)


async def test_what_is_lost_is_sent_again_later(tmp_path: Path) -> None:
    async with linked(tmp_path) as (link, connect, _heard):
        reader, writer = await connect()
        link.change(Weather(loss=1.0))
        began = time.monotonic()
        writer.write(b"hello")
        assert await said(reader, 5, 3) == b"hello"
        assert time.monotonic() - began >= 0.4
