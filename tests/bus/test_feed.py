"""A feed's batches: as many messages together as come soon, and no waiting for more than there is room for."""

from __future__ import annotations

import asyncio

import pytest

from bus import feed as module
from bus.connection import Connection
from bus.feed import Feed
from bus.streams import TRACE, ensure_streams

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(20)]

LONG_S = 600.0


async def publish(connection: Connection, *bodies: bytes) -> None:
    for body in bodies:
        await connection.publish("step.e.plan", body)
    await connection.flush()


@pytest.fixture
async def feed(connection: Connection) -> Feed:
    await ensure_streams(connection, 1)
    return await Feed.open(connection, TRACE, 1)


async def test_a_batch_that_is_full_waits_for_nothing(
    connection: Connection, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 3)
    reading = asyncio.create_task(feed.batch(LONG_S))
    await publish(connection, b"1", b"2", b"3")
    assert [item.data for item in await reading] == [b"1", b"2", b"3"]
    await feed.close()


async def test_a_batch_ends_when_nothing_comes_any_more_however_long_it_may_grow(
    connection: Connection, feed: Feed
) -> None:
    await publish(connection, b"1", b"2")
    found = []
    while len(found) < 2:
        found += await feed.batch(0.01, 1_000_000)
    assert [item.data for item in found] == [b"1", b"2"]
    await feed.close()
