"""Runs that are not over, as the projections have them."""

from __future__ import annotations

from typing import NamedTuple

from bus.store import Store


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


_UNDER_WAY = """
SELECT status, count(*) FROM (SELECT status, finished FROM runs ORDER BY asked DESC NULLS LAST LIMIT 1000) AS latest
WHERE finished IS NULL GROUP BY status ORDER BY status
"""

_LATEST = """
SELECT tenant, thread, run, agent, model, coalesce(status, 'asked'), asked, finished, prompt_tokens, completion_tokens
FROM runs WHERE asked IS NOT NULL ORDER BY asked DESC LIMIT $1
"""
