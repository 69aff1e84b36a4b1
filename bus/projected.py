"""The projections, read: how threads and runs stand, and what was used."""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

from bus.store import Store


class ThreadRow(NamedTuple):
    """How a thread, or bare generation, stands. Times are microseconds since the Unix epoch."""

    tenant: str
    thread: str
    kind: str
    """`agent`, `generation`, `schedule`, `batch` or `key`."""
    agent: str
    """That of the last run."""
    status: str
    """`idle`, `queued`, `running`, `waiting` (for a person), `deleted`, or `stopped`: it cannot be
    followed."""
    runs: int
    """Those that ran here, and not in the thread that this one was forked from."""
    refused: int
    messages: int
    """From outside."""
    events: int
    unread: int
    """Events from the one on that cannot be followed."""
    first: int
    last: int
    origin: str
    """The thread that it was forked from; empty if it was not."""
    stopped: str
    """Which event cannot be followed, and why; empty if all can."""
    resource: str = ""
    """Whose it is; empty if nobody's."""
    title: str = ""
    metadata: str = ""
    """A JSON object of texts; empty if nothing is noted."""


class RunRow(NamedTuple):
    """How a run, or bare generation, stands or ended. Times are microseconds since the Unix epoch."""

    tenant: str
    thread: str
    run: str
    kind: str
    """`agent` or `generation`."""
    agent: str
    model: str
    status: str
    """`queued`, `running`, `waiting`, `finished`, `failed` or `stopped`."""
    reason: str
    """The finish reason, or the kind of problem."""
    forked: bool
    """Whether it began in the thread that its own was forked from."""
    asked: int
    started: int | None
    finished: int | None
    model_calls: int
    tool_calls: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class UsageRow(NamedTuple):
    """What was used of a model, by an agent, on a day of UTC."""

    tenant: str
    agent: str
    """Empty for bare generations."""
    model: str
    day: date
    runs: int
    """Those that began."""
    failed: int
    model_calls: int
    tool_calls: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    unread: int
    """Events of threads that cannot be followed: nobody knows what they used."""


async def latest_threads(
    store: Store,
    limit: int,
    tenant: str | None = None,
    kind: str | None = None,
    resource: str | None = None,
    title: str = "",
) -> list[ThreadRow]:
    """Return the threads with the latest events, the latest first; of one tenant, kind and resource, or of all.

    Those whose title has a text, in any case, where one is given.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    rows = await store.rows(_THREADS, limit, tenant, kind, resource, like(title))
    return [ThreadRow(*row) for row in rows]


async def stopped_threads(store: Store, limit: int) -> list[ThreadRow]:
    """Return threads that cannot be followed.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    rows = await store.rows("SELECT * FROM threads WHERE stopped <> '' ORDER BY last DESC LIMIT $1", limit)
    return [ThreadRow(*row) for row in rows]


async def latest_runs(store: Store, limit: int, tenant: str | None = None, thread: str | None = None) -> list[RunRow]:
    """Return the runs that were asked for last, the latest first; of one tenant and thread, or of all.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    rows = await store.rows(_RUNS, limit, tenant, thread)
    return [RunRow(*row) for row in rows]


async def daily_usage(store: Store, since: date, tenant: str | None = None) -> list[UsageRow]:
    """Return what was used on each day from `since` on, the latest first; by one tenant, or by all.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    rows = await store.rows(_USAGE, since, tenant)
    return [UsageRow(*row) for row in rows]


async def tokens_used(store: Store, where: tuple[str, str, str], scope: str, days: int) -> int:
    """Count the tokens of prompts and answers that runs took, which were asked for in the last so many days.

    What other agents took that were asked by a thread's runs is that thread's, and whose that is.

    Args:
        store: the record.
        where: tenant, thread and resource; without a resource, that scope is the thread's owner's, or the thread's.
        scope: `thread`, `resource` or `tenant`.
        days: up to now; 0 is for ever.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    tenant, thread, resource = where
    if scope == "resource" and not resource:
        resource = next((row["resource"] for row in await store.rows(_WHOSE, tenant, thread)), "")
    narrow = "thread" if scope == "resource" and not resource else scope
    (row,) = await store.rows(_USED, tenant, narrow, thread, resource, days)
    found: int = row["used"]
    return found


def like(text: str) -> str:
    """Give the pattern of whatever has this text in it."""
    return "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"


_THREADS = """
SELECT * FROM threads WHERE ($2::text IS NULL OR tenant = $2) AND ($3::text IS NULL OR kind = $3)
AND ($4::text IS NULL OR resource = $4) AND title ILIKE $5
ORDER BY last DESC, tenant, thread LIMIT $1
"""

_RUNS = f"""
SELECT {", ".join(RunRow._fields)} FROM runs
WHERE ($2::text IS NULL OR tenant = $2) AND ($3::text IS NULL OR thread = $3)
ORDER BY asked DESC, tenant, thread, run LIMIT $1
"""

_USED = """
SELECT coalesce(sum(prompt_tokens + completion_tokens), 0)::bigint AS used FROM runs
WHERE tenant = $1 AND ($2 <> 'thread' OR thread = $3 OR root = $3)
AND ($2 <> 'resource' OR CASE root WHEN '' THEN thread ELSE root END IN (
    SELECT thread FROM threads WHERE tenant = $1 AND resource = $4
))
AND ($5 = 0 OR asked >= (extract(epoch FROM now()) - 86400 * $5::bigint) * 1000000)
"""

_WHOSE = "SELECT resource FROM threads WHERE tenant = $1 AND thread = $2"

_USAGE = """
SELECT * FROM usage WHERE day >= $1 AND ($2::text IS NULL OR tenant = $2) ORDER BY day DESC, tenant, agent, model
"""
