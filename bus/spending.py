"""What was spent on models: told between processes as it happens, and read out of the record when one begins."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bus import subjects
from bus.connection import Connection, Message
from bus.errors import BusError
from bus.store import Store
from schemas import codec
from schemas.messages import Usage
from schemas.models import Spent


async def tell_spent(connection: Connection, spent: Spent) -> None:
    """Tell the other processes; one that does not hear it knows of it when it begins again."""
    try:
        await connection.publish(subjects.spent(spent.tenant), codec.encode(spent))
    except BusError:
        return


async def hear_spent(connection: Connection, learn: Callable[[Spent], None], own: str) -> None:
    """Hear what others spend, and leave out what comes from this process, which is called `own`.

    Raises:
        Unavailable: the connection is closed.
    """

    async def heed(message: Message) -> None:
        spent: Spent = codec.decode(message.data, Spent)
        if spent.process != own:
            learn(spent)

    await connection.subscribe(subjects.SPENT, heed)


async def recorded_spending(store: Store, since: int) -> list[Spent]:
    """Read what was spent from a time on, microseconds since the Unix epoch; of sealed answers nothing is known.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    rows = await store.rows(_SPENT, since)
    return [
        Spent(row["time"], row["tenant"], row["thread"], row["entity"], row["engine"] or "", _usage(row["usage"]))
        for row in rows
    ]


def _usage(text: str | None) -> Usage:
    return Usage() if text is None else msgspec.json.decode(text, type=Usage)


_SPENT = """
SELECT time, tenant, thread, entity, told ->> 'engine' AS engine, told ->> 'usage' AS usage
FROM event, LATERAL (SELECT convert_from(payload, 'UTF8')::json AS told) AS payload_told
WHERE type = 'model.returned' AND time >= $1 AND coalesce(key_id, '') = ''
ORDER BY time
"""
