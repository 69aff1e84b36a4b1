"""Who answers with numbers, and how long answers are heard."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from bus.connection import Connection, Message
from bus.numbers import numbers_of_all

pytestmark = pytest.mark.anyio


async def test_who_takes_longer_than_those_that_are_known_is_heard_too(connection: Connection) -> None:
    known_answered, asked = asyncio.Event(), list[str]()

    def answer(slot: str) -> bytes:
        endpoint = {"name": "numbers", "subject": "x", "data": {"of": slot}}
        said: dict[str, Any] = {"name": "ostinato-worker", "id": slot, "version": "1.0.0", "metadata": {"slot": slot}}
        return msgspec.json.encode({**said, "type": "io.nats.micro.v1.stats_response", "endpoints": [endpoint]})

    async def hear(message: Message) -> None:
        asked.append(message.reply)
        await connection.publish(message.reply, answer("worker-0"))
        known_answered.set()

    async def late() -> None:
        await known_answered.wait()
        await asyncio.sleep(0.15)  # longer than an answer takes to come, and less than is waited
        await connection.publish(asked[0], answer("worker-1"))

    subscription = await connection.subscribe("$SRV.STATS", hear)
    try:
        later = asyncio.create_task(late())
        found = await numbers_of_all(connection, {"worker-0"}, 60.0, 0.5)
        await later
    finally:
        await subscription.unsubscribe()
    assert [process.slot for process in found] == ["worker-0", "worker-1"]
