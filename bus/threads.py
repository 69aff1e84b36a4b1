"""A tenant's threads, listed and searched: read as a role that sees the rows of that tenant alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg

from bus.projected import ThreadRow, like
from bus.store import DatabaseUnusable, Store
from schemas import codec

_ROLE = "ostinato_tenant"


class Wanted(NamedTuple):
    """Which threads."""

    resource: str | None = None
    """Those of this person or project; None is everybody's."""
    text: str = ""
    """In the title, in any case."""
    metadata: Mapping[str, str] = {}
    """All of it must be there."""
    before: int | None = None
    """Last active before this time: where the page before ended."""
    thread: str | None = None
    """That one alone."""


@asynccontextmanager
async def reading_as(store: Store, tenant: str) -> AsyncIterator[Any]:
    """Give a connection that sees the rows of one tenant alone, for one transaction.

    Raises:
        DatabaseUnusable: the role for that is not there, or not ours.
        Unavailable: Postgres cannot be reached.
    """
    async with store.transaction() as connection:
        try:
            await connection.execute(f"SET LOCAL ROLE {_ROLE}")
        except (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError) as error:
            mend = f"have an administrator run CREATE ROLE {_ROLE} NOLOGIN and grant it, with SELECT on the projections"
            raise DatabaseUnusable(f"Postgres has no role {_ROLE!r} that we may take ({error}): {mend}") from error
        await connection.execute("SELECT set_config('ostinato.tenant', $1, true)", tenant)
        yield connection


async def threads_of(store: Store, tenant: str, wanted: Wanted, limit: int = 20) -> list[ThreadRow]:
    """Return a tenant's threads, those with the latest events first; deleted ones are not among them.

    Raises:
        DatabaseUnusable: the role for that is not there, or not ours.
        Unavailable: Postgres cannot be reached.
    """
    metadata = codec.encode(wanted.metadata).decode()
    async with reading_as(store, tenant) as connection:
        where = (wanted.resource, like(wanted.text), metadata, wanted.before, wanted.thread)
        rows = await connection.fetch(_THREADS, *where, limit)
    return [ThreadRow(*row) for row in rows]


_THREADS = """
SELECT tenant, thread, kind, coalesce(agent, ''), coalesce(status, 'idle'), runs, refused, messages, events, unread,
    first, last, coalesce(origin, ''), coalesce(stopped, ''), coalesce(resource, ''), coalesce(title, ''),
    coalesce(metadata, '')
FROM projection JOIN projected_thread USING (build)
WHERE projection.name = 'threads' AND kind = 'agent' AND coalesce(status, '') <> 'deleted'
AND ($1::text IS NULL OR coalesce(resource, '') = $1) AND coalesce(title, '') ILIKE $2
AND coalesce(nullif(metadata, ''), '{}')::jsonb @> $3::jsonb AND ($4::bigint IS NULL OR last < $4)
AND ($5::text IS NULL OR thread = $5)
ORDER BY last DESC, thread LIMIT $6
"""
