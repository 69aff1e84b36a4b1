"""Follows what is committed, over every loss of the server, from one stream sequence to the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from bus.blobs import Blobs
from bus.connection import Connection
from bus.errors import BusError
from bus.feed import Feed, Item
from bus.log import Stored, opened
from bus.streams import EV
from schemas import codec

_LINGER_S = 0.02
_PAUSE_S = 0.5


async def last_sequence(connection: Connection) -> int:
    """Say where the log ends now.

    Raises:
        BusError: NATS does not say.
        TimeoutError: nor does it say no.
    """
    return int((await connection.api(f"STREAM.INFO.{EV}"))["state"]["last_seq"])


async def commits(
    connection: Connection, after: int, lost: Callable[[str], None], found: Callable[[], None]
) -> AsyncGenerator[Stored, None]:
    """Yield every envelope after sequence `after`, as it is committed, for ever.

    Args:
        connection: to the server.
        after: the last sequence that is known.
        lost: told why, each time the server cannot be read; it is tried again. What it raises ends this.
        found: told each time it can be read.

    Raises:
        SchemaError: newer code wrote an envelope.
    """
    position, blobs = after, Blobs(connection)
    while True:
        try:
            async with aclosing(_items(connection, position + 1, found)) as items:
                async for item in items:
                    envelope = await opened(connection, await blobs.whole(codec.decode_envelope(item.data)))
                    position = item.sequence
                    yield Stored(position, envelope, codec.digest(item.data))
        except (BusError, TimeoutError) as error:
            lost(str(error))
            await asyncio.sleep(_PAUSE_S)


async def _items(connection: Connection, first: int, found: Callable[[], None]) -> AsyncGenerator[Item, None]:
    feed = await Feed.open(connection, EV, first)
    try:
        found()
        while True:
            for item in await feed.batch(_LINGER_S):
                yield item
    finally:
        await feed.close()
