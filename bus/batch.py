"""Many messages of a stream in one request: JetStream's batched direct get."""

from __future__ import annotations

import asyncio
from datetime import datetime

import msgspec

from bus.connection import Connection, Message
from bus.feed import Item

MOST = 256
_STALLED_S = 5.0


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
        time = int(datetime.fromisoformat(stored["Nats-Time-Stamp"]).timestamp() * 1_000_000)
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
