"""Many messages of a stream in one request: JetStream's batched direct get, and the leader's word where it matters.

In a cluster any server may answer a direct get, also one that is yet to hear the latest: what it does not have is not
missing before the stream's leader has said so.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import msgspec

from bus.connection import Connection, Message
from bus.errors import Refused
from bus.feed import Item
from bus.streams import NO_MESSAGE

MOST = 256
_STALLED_S = 5.0
_ASK_S = 2.0


async def read_batch(connection: Connection, stream: str, subject: str, first: int) -> list[Item]:
    """Get up to `MOST` messages of the subject from sequence `first` on, in one request; none are there if none come.

    Raises:
        TimeoutError: the server stopped answering.
        Unavailable: it is not there.
    """
    got: list[Item] = []
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def heard(message: Message) -> None:
        if message.headers.get("Status") or "Nats-Sequence" not in message.headers:
            if not done.done():
                done.set_result(None)
            return
        stored = message.headers
        time = _microseconds(stored["Nats-Time-Stamp"])
        got.append(Item(int(stored["Nats-Sequence"]), stored["Nats-Subject"], time, message.data))

    inbox = connection.client.new_inbox()
    subscription = await connection.subscribe(inbox, heard)
    try:
        body = {"seq": first, "batch": MOST, "next_by_subj": subject}
        await connection.publish(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(body), reply=inbox)
        async with asyncio.timeout(_STALLED_S):
            await done
    finally:
        await subscription.unsubscribe()
    return got


async def next_on_leader(connection: Connection, stream: str, subject: str, first: int) -> Item | None:
    """Get the first message of the subject from sequence `first` on that the stream's leader has; as `on_leader`."""
    return await on_leader(connection, stream, {"seq": first, "next_by_subj": subject})


async def on_leader(connection: Connection, stream: str, where: dict[str, Any]) -> Item | None:
    """Get one message that the stream's leader has; None if it has none.

    Args:
        connection: to NATS.
        stream: the stream.
        where: which one, as `$JS.API.STREAM.MSG.GET` takes it: `seq`, `last_by_subj`, or `seq` and `next_by_subj`.

    Raises:
        Refused: JetStream says no.
        TimeoutError: the server does not answer.
        Unavailable: it is not there.
    """
    try:
        answer = await connection.api(f"STREAM.MSG.GET.{stream}", where, _ASK_S)
    except Refused as refusal:
        if refusal.code == NO_MESSAGE:
            return None
        raise
    message = answer["message"]
    data = msgspec.convert(message.get("data", ""), bytes, strict=False)
    return Item(int(message["seq"]), message["subject"], _microseconds(message["time"]), data)


async def read_surely(connection: Connection, stream: str, subject: str, first: int) -> list[Item]:
    """Get some messages of the subject from sequence `first` on: none only if the leader has none.

    Raises:
        Refused: JetStream says no.
        TimeoutError: the server stopped answering.
        Unavailable: it is not there.
    """
    batch = await read_batch(connection, stream, subject, first)
    if batch:
        return batch
    there = await next_on_leader(connection, stream, subject, first)
    return [] if there is None else [there]


def _microseconds(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp() * 1_000_000)
