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


async def test_a_harvest_brings_what_gathered_on_the_server(connection: Connection, feed: Feed) -> None:
    await publish(connection, *(b"%d" % n for n in range(50)))
    assert [item.data for item in await feed.harvest(0.0)] == [b"%d" % n for n in range(50)]
    reading = asyncio.create_task(feed.harvest(0.05))
    await publish(connection, b"50", b"51")
    found = await reading
    while len(found) < 2:
        found += await feed.harvest(0.0)
    assert [item.data for item in found] == [b"50", b"51"]
    await feed.close()


async def test_a_feed_that_is_far_behind_does_not_rest(
    connection: Connection, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 4)
    await publish(connection, *(b"%d" % n for n in range(12)))
    assert [item.data for item in await feed.harvest(LONG_S)] == [b"0", b"1", b"2", b"3"]
    assert [item.data for item in await feed.harvest(LONG_S)] == [b"4", b"5", b"6", b"7"]
    await feed.close()
