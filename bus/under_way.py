"""Runs that are not over, as the projections have them."""

from __future__ import annotations

from typing import NamedTuple

from bus.store import Store
from bus.threads import reading_as


class LateRun(NamedTuple):
    """A line in a list of the latest runs."""

    tenant: str
    thread: str
    run: str
    agent: str
    model: str
    status: str
    asked: int
    """When, microseconds since the Unix epoch."""
    finished: int | None
    prompt_tokens: int
    completion_tokens: int


async def runs_under_way(store: Store) -> dict[str, int]:
    """Count, among the thousand that were asked for last, those that are not over, by status.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    return {row["status"] or "asked": row["count"] for row in await store.rows(_UNDER_WAY)}


async def latest_runs(store: Store, count: int) -> list[LateRun]:
    """Return the runs that were asked for last, the latest first.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    return [LateRun(*row) for row in await store.rows(_LATEST, count)]


class RunsWanted(NamedTuple):
    """Which runs."""

    thread: str | None = None
    """None is any; so with the others."""
    agent: str | None = None
    status: str | None = None
    before: int | None = None
    """Asked for before this time: where the page before ended."""
    resource: str | None = None
    """In threads of this person or project."""


async def runs_of(store: Store, tenant: str, wanted: RunsWanted, limit: int = 20) -> list[LateRun]:
    """Return a tenant's runs of agents, the latest first.

    Raises:
        DatabaseUnusable: the role that sees one tenant alone is not there, or not ours.
        Unavailable: Postgres cannot be reached.
    """
    async with reading_as(store, tenant) as connection:
        rows = await connection.fetch(_OF_TENANT, *wanted, limit)
    return [LateRun(*row) for row in rows]


_STATUS = "CASE WHEN status = 'failed' AND reason = 'aborted' THEN 'aborted' ELSE coalesce(status, 'asked') END"
"""As it is called where one run is told of."""

_OF_TENANT = f"""
SELECT tenant, thread, run, coalesce(agent, '') AS agent, coalesce(model, ''), {_STATUS}, asked,
    finished, prompt_tokens, completion_tokens
FROM projection JOIN projected_run USING (build)
WHERE projection.name = 'runs' AND kind = 'agent' AND asked IS NOT NULL AND ($1::text IS NULL OR thread = $1)
AND ($2::text IS NULL OR agent = $2) AND ($3::text IS NULL OR {_STATUS} = $3)
AND ($4::bigint IS NULL OR asked < $4)
AND ($5::text IS NULL OR thread IN (
    SELECT thread FROM projection JOIN projected_thread USING (build)
    WHERE projection.name = 'threads' AND kind = 'agent' AND resource = $5
))
ORDER BY asked DESC, run LIMIT $6
"""

_UNDER_WAY = """
SELECT status, count(*) FROM (SELECT status, finished FROM runs ORDER BY asked DESC NULLS LAST LIMIT 1000) AS latest
WHERE finished IS NULL GROUP BY status ORDER BY status
"""

_LATEST = """
SELECT tenant, thread, run, agent, model, coalesce(status, 'asked'), asked, finished, prompt_tokens, completion_tokens
FROM runs WHERE asked IS NOT NULL ORDER BY asked DESC LIMIT $1
"""
