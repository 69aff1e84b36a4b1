"""Reads what the log says of API keys, and hears what is new of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nats.aio.subscription import Subscription

from bus import subjects
from bus.connection import Connection, Message
from bus.store import Store, StoredEvent, stored_event
from schemas import codec
from schemas.live import Committed

_KEYS = "SELECT * FROM event WHERE kind = 'key' ORDER BY incarnation, seq, idx"


async def key_events(store: Store) -> list[StoredEvent]:
    """Return everything that is recorded of keys, in the order of the log.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    return [stored_event(row) for row in await store.rows(_KEYS)]


async def hear_keys(connection: Connection, heard: Callable[[Committed], Awaitable[None]]) -> Subscription:
    """Call back for each event of a key as soon as it is committed; one may be lost with a connection.

    Raises:
        Unavailable: the connection is closed.
    """

    async def hear(message: Message) -> None:
        await heard(codec.decode(message.data, Committed))

    return await connection.subscribe(subjects.KEYS, hear)
