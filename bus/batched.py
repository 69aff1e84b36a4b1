"""What a batch's events mean for the book that is kept of it; and that book, read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bus.columns import whole
from bus.store import Store, StoredEvent
from schemas import codec
from schemas.batches import (
    Batch,
    BatchCancelling,
    BatchCreated,
    BatchFinalizing,
    BatchLineEnded,
    BatchRead,
    BatchWritten,
    LineProblem,
)
from schemas.messages import Usage
from schemas.runs import Event


class BatchRow(NamedTuple):
    """How a batch stands. Times are microseconds since the Unix epoch."""

    tenant: str
    id: str
    batch: Batch
    status: str
    """As OpenAI calls it: `validating`, `in_progress`, `finalizing`, `completed`, `failed`, `expired`, `cancelling`,
    `cancelled`."""
    created: int
    expires: int
    started: int | None
    """When its file was read."""
    finalizing: int | None
    cancelling: int | None
    ended: int | None
    total: int
    completed: int
    failed: int
    usage: Usage
    output_file: str
    """Empty where there is none."""
    error_file: str
    problems: tuple[LineProblem, ...]
    """Why nothing came of it."""


def _created(event: BatchCreated) -> Mapping[str, Any]:
    about = whole(codec.encode(event.batch).decode())
    return {"batch": about, "status": "validating", "created": event.at, "expires": event.expires}


def _read(event: BatchRead) -> Mapping[str, Any]:
    if event.problems:
        problems = whole(codec.encode(event.problems).decode())
        return {"status": "failed", "problems": problems, "total": event.total, "ended": event.at}
    return {"status": "in_progress", "started": event.at, "total": event.total}


def _line_ended(event: BatchLineEnded) -> Mapping[str, Any]:
    used = event.usage
    tokens = {name: getattr(used, name) for name in _TOKENS}
    return {"failed" if event.failed else "completed": 1, **tokens}


def _cancelling(event: BatchCancelling) -> Mapping[str, Any]:
    return {"cancelling": event.at}


def _finalizing(event: BatchFinalizing) -> Mapping[str, Any]:
    return {"status": "cancelling" if event.outcome == "cancelled" else "finalizing", "finalizing": event.at}


def _written(event: BatchWritten) -> Mapping[str, Any]:
    return {"status": event.outcome, "ended": event.at, "written": whole(codec.encode(event).decode())}


_TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")

WHOLE: Mapping[str, Callable[[Any], Mapping[str, Any]]] = {
    "batch.created": _created,
    "batch.read": _read,
    "batch.line_ended": _line_ended,
    "batch.cancelling": _cancelling,
    "batch.finalizing": _finalizing,
    "batch.written": _written,
}
"""Events that are read whole."""


def delta(stored: StoredEvent, event: Event) -> Mapping[str, Any]:
    """Say what an event changes in the row of its batch."""
    return WHOLE[stored.fact.type](event)


async def batch_of(store: Store, tenant: str, identity: str) -> BatchRow | None:
    """Return how a tenant's batch stands, as far as that is recorded.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    rows = await store.rows("SELECT * FROM batches WHERE tenant = $1 AND thread = $2", tenant, identity)
    return _row(rows[0]) if rows else None


async def batches_of(store: Store, tenant: str, after: str | None, limit: int) -> list[BatchRow]:
    """Return a tenant's batches, the latest first.

    Args:
        store: the record.
        tenant: whose.
        after: only those before this one.
        limit: at most so many.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    return [_row(row) for row in await store.rows(_LATEST, tenant, after, limit)]


async def open_batches(store: Store, tenant: str) -> int:
    """Count a tenant's batches that are not over.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    (row,) = await store.rows("SELECT count(*) FROM batches WHERE tenant = $1 AND ended IS NULL", tenant)
    found: int = row["count"]
    return found


def _row(row: Any) -> BatchRow:
    written = None if row["written"] is None else codec.decode(row["written"].encode(), BatchWritten)
    problems = () if row["problems"] is None else codec.decode(row["problems"].encode(), tuple[LineProblem, ...])
    return BatchRow(
        row["tenant"],
        row["thread"],
        codec.decode(row["batch"].encode(), Batch),
        row["status"],
        row["created"],
        row["expires"],
        row["started"],
        row["finalizing"],
        row["cancelling"],
        row["ended"],
        row["total"],
        row["completed"] if written is None else written.completed,
        row["failed"] if written is None else written.failed,
        Usage(**{name: row[name] for name in _TOKENS}),
        "" if written is None else written.output_file,
        "" if written is None else written.error_file,
        problems,
    )


_LATEST = """
SELECT * FROM batches WHERE tenant = $1
AND ($2::text IS NULL OR (created, thread) < (SELECT created, thread FROM batches WHERE tenant = $1 AND thread = $2))
ORDER BY created DESC, thread DESC LIMIT $3
"""
