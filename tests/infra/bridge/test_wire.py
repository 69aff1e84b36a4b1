"""A real server and bare sockets: what comes before a request is whole."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from infra.bridge import wire
from infra.serving import serving
from infra.settings import AccessSettings, LimitSettings


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        async with serving(application, AccessSettings(), LimitSettings(header_kb=1), listening):
            reader, writer = await asyncio.open_connection("127.0.0.1", listening.getsockname()[1])
            try:
                yield reader, writer
            finally:
                writer.close()


@pytest.mark.anyio
async def test_requests_follow_one_another_on_a_connection() -> None:
    async with connected() as (reader, writer):
        for _ in range(3):
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")


ASKED = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n"
BODY = b"x" * 100_000


@pytest.mark.anyio
@pytest.mark.parametrize(("first", "then"), [(ASKED, BODY), (b"", ASKED + BODY), (ASKED + BODY[:1], BODY[1:])])
async def test_a_body_is_not_counted_to_the_head_behind_it(
    monkeypatch: pytest.MonkeyPatch, first: bytes, then: bytes
) -> None:
    made, connection_made = list[wire.BoundedProtocol](), wire.BoundedProtocol.connection_made

    def noting(protocol: wire.BoundedProtocol, transport: Any) -> None:
        made.append(protocol)
        connection_made(protocol, transport)

    monkeypatch.setattr(wire.BoundedProtocol, "connection_made", noting)
    async with connected() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" + first)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        if first:  # the application does not wait for the body
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        # where a stream is cut up is chance
        for piece in (then + b"GET / HTTP/1.1\r\nx: ", b"y" * 2000, b"\r\nhost: a\r\n\r\n"):
            made[0].data_received(piece)
        for _ in range(1 if first else 2):
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")


@pytest.mark.anyio
@pytest.mark.parametrize("begins", [b"GET / HTTP/1.1\r\nx: ", b"GET /"])
async def test_a_head_without_end_is_not_kept(begins: bytes) -> None:
    async with connected() as (reader, writer):
        writer.write(begins + b"x" * (200 << 10))
        with contextlib.suppress(ConnectionError):  # what was not read any more is lost, and the answer with it
            assert (await reader.read()).startswith(b"HTTP/1.1 400")


@pytest.mark.anyio
@pytest.mark.parametrize("begins", [b"", b"GET / HTTP/1.1\r\nhost:", b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HT"])
async def test_a_head_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, begins: bytes) -> None:
    monkeypatch.setattr(wire, "_HEAD_S", 0.05)
    async with connected() as (reader, writer):
        writer.write(begins)
        assert (await reader.read()).count(b"200 OK") == begins.count(b"\r\n\r\n")
