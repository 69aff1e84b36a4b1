"""Another master key in the place of the one that there was: every key is wrapped anew, no event is written again."""

from __future__ import annotations

from typing import Any

from bus.master import Master
from bus.store import Store

_PAGE = 1000


async def rewrap(store: Store, before: Master, after: Master) -> int:
    """Wrap every key with another master key, all of them or none; return how many were wrapped with the one before.

    Nobody may make keys meanwhile: a stack that runs would go on with the master key that it began with.

    Raises:
        WrongMaster: one was wrapped with a third master key; nothing was changed.
        Unavailable: Postgres cannot be reached.
    """
    count = 0
    async with store.transaction() as connection:
        await connection.execute("LOCK TABLE sealing_key IN EXCLUSIVE MODE")
        while rows := await connection.fetch(_LEFT, after.name, _PAGE):
            await connection.execute(_WRAP, *_wrapped(rows, before, after), after.name)
            count += len(rows)
    return count


def _wrapped(rows: list[Any], before: Master, after: Master) -> tuple[list[str], list[bytes]]:
    names = [row["id"] for row in rows]
    keys = [before.unwrap(row["id"], row["wrapped"], row["master"]) for row in rows]
    return names, [after.wrap(name, key) for name, key in zip(names, keys, strict=True)]


_LEFT = "SELECT id, wrapped, master FROM sealing_key WHERE master <> $1 LIMIT $2"
_WRAP = """
UPDATE sealing_key SET wrapped = fresh.wrapped, master = $3
FROM unnest($1::text[], $2::bytea[]) AS fresh (id, wrapped) WHERE sealing_key.id = fresh.id
"""
