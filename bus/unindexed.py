"""What was said and no vector could be made of: tried again some times, then set aside until somebody asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bus.columns import whole
from bus.projecting import At
from bus.store import Store
from bus.threads import reading_as
from bus.vectors import KEEP, KEYS, Spoken, resources_of, spoken_at


class Unindexed(NamedTuple):
    """Something that was said and cannot be found by its vector, and why."""

    place: At
    thread: str
    embedder: str
    reason: str
    tries: int
    aside: bool
    """Whether it is not tried again by itself."""


async def unindexed(store: Store, tenant: str, limit: int) -> list[Unindexed]:
    """Return what was said and cannot be found by its vector, the latest first.

    Raises:
        DatabaseUnusable: we may not read as the tenant.
        Unavailable: Postgres cannot be reached.
    """
    async with reading_as(store, tenant) as connection:
        rows = await connection.fetch(_UNINDEXED, tenant, limit)
    return [Unindexed(At(*row[:3]), *row[3:]) for row in rows]


async def try_again(store: Store, tenant: str) -> int:
    """Have all of a tenant's tried again, now and as often as at first; return how many that are.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    return len(await store.rows(_AGAIN, tenant))


async def take_due(store: Store, embedder: str, delays_s: Sequence[float], most: int) -> list[Spoken]:
    """Return what is to be tried again now, nobody else at once; it counts as tried, whatever becomes of us.

    Args:
        store: the record.
        embedder: whose vectors.
        delays_s: how long to wait after each try; after one more it is set aside.
        most: how many at most.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    rows = await store.rows(_TAKE, embedder, list(delays_s), most)
    places = {tenant: [At(*row[:3]) for row in rows if row["tenant"] == tenant] for tenant in {row[3] for row in rows}}
    return [one for tenant, there in sorted(places.items()) for one in await spoken_at(store, tenant, there)]


async def give_back(store: Store, embedder: str, spoken: Sequence[Spoken]) -> None:
    """Say that what was taken was not tried.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    await store.rows(_GIVE_BACK, embedder, *_columns(spoken))


async def refuse_again(store: Store, embedder: str, spoken: Spoken, reason: str) -> None:
    """Say why no vector could be made this time.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    await store.rows(_REASON, embedder, *spoken.place, whole(reason))


async def index_late(store: Store, embedder: str, spoken: Spoken, vector: Sequence[float]) -> None:
    """Write the vector of what had none; nothing of a thread that ended meanwhile.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    resources = await resources_of(store, [spoken])
    async with store.transaction() as connection:
        # locked, and first, as whoever destroys it does
        if spoken.key is not None and not await connection.fetch(KEYS, [spoken.key]):
            return
        if await connection.fetchrow(_GONE, embedder, *spoken.place) is None:
            return
        where = (embedder, *spoken.place, spoken.tenant, spoken.thread)
        resource = resources.get((spoken.tenant, spoken.thread), "")
        await connection.execute(KEEP, *where, resource, list(vector))


def _columns(spoken: Sequence[Spoken]) -> list[list[int]]:
    return [list(column) for column in zip(*(one.place for one in spoken), strict=True)] or [[], [], []]


_UNINDEXED = """
SELECT incarnation, seq, idx, thread, embedder, reason, tries, due IS NULL FROM unindexed WHERE tenant = $1
ORDER BY incarnation DESC, seq DESC, idx DESC LIMIT $2
"""

_AGAIN = "UPDATE unindexed SET tries = 0, due = now() WHERE tenant = $1 RETURNING 1"

_TAKE = """
UPDATE unindexed SET tries = tries + 1, due = now() + make_interval(secs => ($2::float8[])[tries + 1])
WHERE (embedder, incarnation, seq, idx) IN (
    SELECT embedder, incarnation, seq, idx FROM unindexed WHERE embedder = $1 AND due <= now()
    ORDER BY due LIMIT $3 FOR UPDATE SKIP LOCKED
) RETURNING incarnation, seq, idx, tenant
"""

_GIVE_BACK = """
UPDATE unindexed SET tries = tries - 1, due = now() FROM unnest($2::integer[], $3::bigint[], $4::integer[])
AS given (incarnation, seq, idx) WHERE unindexed.embedder = $1 AND unindexed.incarnation = given.incarnation
AND unindexed.seq = given.seq AND unindexed.idx = given.idx
"""

_REASON = "UPDATE unindexed SET reason = $5 WHERE embedder = $1 AND incarnation = $2 AND seq = $3 AND idx = $4"

_GONE = "DELETE FROM unindexed WHERE embedder = $1 AND incarnation = $2 AND seq = $3 AND idx = $4 RETURNING 1"
