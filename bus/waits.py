"""What waits for somebody, over all threads: found by the projection of runs, read from the events of those alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from bus.store import Store, StoredEvent, read_events
from schemas import codec
from schemas.messages import ToolCall
from schemas.runs import ApprovalRequested, ToolCalled
from schemas.waits import ToolHandedOver, ToolSuspended


class Wait(NamedTuple):
    """A call that waits."""

    tenant: str
    thread: str
    run: str
    agent: str
    kind: str
    """`approval`, `data` or `caller`."""
    effect: str
    """What an answer names."""
    since: int
    """Microseconds since the Unix epoch."""
    call: ToolCall
    payload: Any = None
    """What a suspended tool has to show."""


async def waits(store: Store, tenant: str | None = None, limit: int = 100, resource: str | None = None) -> list[Wait]:
    """Return what waits, of one tenant or of all: of up to `limit` runs, those that were asked for first coming first.

    Args:
        store: the record.
        tenant: whose.
        limit: runs.
        resource: only in threads of this person or project.

    Raises:
        Unavailable: Postgres cannot be reached.
        SchemaError: an event cannot be read, or it is sealed, and the store was opened without the master key.
    """
    found: dict[tuple[str, str, str, str], Wait] = {}
    calls: dict[tuple[str, str, str, str], ToolCall] = {}
    rows = await store.rows(_EVENTS, tenant, limit, list(_TYPES), resource)
    for row, stored in zip(rows, await read_events(store, rows), strict=True):
        if codec.is_erased(stored.fact.payload):
            continue
        place = (row["tenant"], row["thread"], row["entity"])
        about = (*place, row["agent"])
        match event := codec.event_of(stored.fact):
            case ApprovalRequested(effect=effect, call=call):
                found[*place, effect] = Wait(*about, "approval", effect, row["time"], call)
            case ToolHandedOver(effect=effect, call=call):
                found[*place, effect] = Wait(*about, "caller", effect, row["time"], call)
            case ToolCalled(effect=effect, call=call):
                calls[*place, effect] = call
                found.pop((*place, effect), None)
            case ToolSuspended(effect=effect, payload=payload):
                call = calls.get((*place, effect), ToolCall("", "", ""))
                found[*place, effect] = Wait(*about, "data", effect, row["time"], call, payload)
            case _:
                found.pop((*place, str(getattr(event, "effect", ""))), None)
    return list(found.values())


async def calls_of_runs(store: Store, tenant: str, runs: Sequence[str]) -> list[StoredEvent]:
    """Return what runs have said of their tool calls and of who is waited for there, in the order of the log.

    What was erased is left out.

    Raises:
        Unavailable: Postgres cannot be reached.
        SchemaError: an event cannot be read, or it is sealed, and the store was opened without the master key.
    """
    found = await read_events(store, await store.rows(_CALLS, tenant, list(runs), list(_TYPES)))
    return [stored for stored in found if not codec.is_erased(stored.fact.payload)]


_TYPES = (
    *("approval.requested", "tool.suspended", "tool.handed_over", "tool.called"),
    *("approval.given", "approval.denied", "tool.continued", "tool.returned", "tool.failed", "tool.indeterminate"),
)

_CALLS = """
SELECT * FROM event WHERE tenant = $1 AND kind = 'run' AND entity = ANY($2) AND type = ANY($3)
ORDER BY incarnation, seq, idx
"""

# what follows a wait names the effect that waited: it is taken out again
_EVENTS = """
WITH waiting AS MATERIALIZED (
    SELECT tenant, thread, run, coalesce(agent, '') AS agent, asked FROM projection JOIN projected_run USING (build)
    WHERE projection.name = 'runs' AND status = 'waiting' AND ($1::text IS NULL OR tenant = $1)
    AND ($4::text IS NULL OR (tenant, thread) IN (SELECT tenant, thread FROM threads WHERE resource = $4))
    ORDER BY asked LIMIT $2
)
SELECT event.*, agent FROM waiting JOIN event
ON event.tenant = waiting.tenant AND event.kind = 'run' AND event.entity = run AND event.thread = waiting.thread
WHERE type = ANY($3)
ORDER BY asked, waiting.tenant, run, event.version
"""
