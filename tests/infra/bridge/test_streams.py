"""Streamed answers in time: over a client that reads, one that does not, and a source that says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from infra.bridge import exchange
from infra.bridge.exchange import Stream
from infra.bridge.framing import IDLE
from infra.settings import LimitSettings

SCOPE: Any = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}}


class Client:
    """Takes what is sent, and never goes away by itself."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.told = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()

    async def receive(self) -> Any:
        await asyncio.Event().wait()

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        self.heard.append(message.get("body", b""))
        self.told.set()


class Source:
    """Says one thing, and the rest when it may; knows whether it was closed."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.closed = False

    async def says(self) -> AsyncGenerator[bytes]:
        try:
            yield b"data: 1\n\n"
            await self.go.wait()
            yield b"data: 2\n\n"
        finally:
            self.closed = True


def streamed(source: Source, client: Client, **limits: Any) -> asyncio.Task[None]:
    says = source.says()
    stream = Stream(says, says, {}, LimitSettings(**limits))
    return asyncio.create_task(stream(SCOPE, client.receive, client.send))


@pytest.mark.anyio
async def test_who_waits_is_told_now_and_then_that_there_is_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SILENCE_S", 0.01)
    source, client = Source(), Client()
    streaming = streamed(source, client)
    while client.heard[-1:] != [IDLE]:
        client.told.clear()
        await client.told.wait()
    source.go.set()
    await streaming
    said = [body for body in client.heard if body and body != IDLE]
    assert said == [b"data: 1\n\n", b"data: 2\n\n"]
    assert client.heard[-1] == b""
    assert source.closed


@pytest.mark.anyio
async def test_a_client_that_reads_nothing_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    source, client = Source(), Client()
    client.reads.clear()
    await streamed(source, client, stalled_s=0.01)
    assert source.closed or client.heard == []
    assert "nobody read it" in caplog.text


@pytest.mark.anyio
async def test_a_stream_ends_with_its_time(caplog: pytest.LogCaptureFixture) -> None:
    source, client = Source(), Client()
    await streamed(source, client, stream_s=0.05)
    assert source.closed
    assert client.heard[-1] == b"data: 1\n\n"
    assert "its time was over" in caplog.text
