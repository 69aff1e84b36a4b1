"""The routes of OpenAI's batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from bus.batched import BatchRow
from infra.batches.desk import BatchDesk, window_of
from infra.bridge.batches.answers import asked_after, asked_limit, guarded, json
from infra.bridge.batches.files import expires_after, file_doors, page
from infra.bridge.callers import caller_of
from infra.bridge.doors import Door, Operation
from infra.bridge.openai import BadRequest, decoded
from schemas.batches import Batch, Endpoint, Name, Note
from schemas.batches_told import (
    BatchCachedTokens,
    BatchCounts,
    BatchesQuery,
    BatchPage,
    BatchProblem,
    BatchProblems,
    BatchShown,
    BatchUsage,
)
from schemas.responses_told import ReasoningTokens
from schemas.wire import Wire

_ENDED: Final = {status: f"{status}_at" for status in ("completed", "failed", "expired", "cancelled")}


class ExpiresAfter(Wire, frozen=True):
    """How long files are kept."""

    anchor: str
    seconds: int


class BatchRequest(Wire, frozen=True, kw_only=True):
    """`POST /v1/batches`."""

    input_file_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    endpoint: Endpoint
    completion_window: str
    metadata: Annotated[Mapping[Name, Note], msgspec.Meta(max_length=16)] | None = None
    output_expires_after: ExpiresAfter | None = None


_CREATING: Final = Operation("OpenAI: begin a batch", BatchRequest, BatchShown, fails=(404, 503))
_TELLING: Final = Operation("OpenAI: say how a batch stands", gives=BatchShown, fails=(503,))
_ENDING: Final = Operation("OpenAI: end a batch", gives=BatchShown, fails=(409, 503))
_LISTING: Final = Operation("OpenAI: list batches", gives=BatchPage, query=BatchesQuery, fails=(503,))


@dataclass(frozen=True)
class BatchRoutes:
    """What clients can do with batches."""

    desk: BatchDesk

    async def create(self, request: Request) -> Response:
        """Begin one."""
        asked = decoded(await request.body(), BatchRequest)
        kept = asked.output_expires_after
        async with guarded():
            batch = Batch(
                asked.input_file_id,
                asked.endpoint,
                window_of(asked.completion_window),
                asked.completion_window,
                asked.metadata or {},
                0 if kept is None else expires_after(kept.anchor, kept.seconds),
            )
            return json(about(await self.desk.create(caller_of(request).tenant, batch)))

    async def get(self, request: Request) -> Response:
        """Say how one stands."""
        identity = request.path_params["batch_id"]
        async with guarded():
            return json(about(_found(await self.desk.batch(caller_of(request).tenant, identity), identity)))

    async def cancel(self, request: Request) -> Response:
        """End one."""
        identity = request.path_params["batch_id"]
        async with guarded():
            return json(about(_found(await self.desk.cancel(caller_of(request).tenant, identity), identity)))

    async def list(self, request: Request) -> Response:
        """List them, the latest first."""
        query = request.query_params
        limit = asked_limit(query.get("limit"), 20, 100)
        async with guarded():
            rows = await self.desk.listed(caller_of(request).tenant, asked_after(query.get("after")), limit + 1)
        return json(BatchPage(*page([about(row) for row in rows], limit)))


def about(row: BatchRow) -> BatchShown:
    """Tell of a batch as OpenAI does."""
    problems = [BatchProblem(one.code, one.line, one.message, one.param) for one in row.problems]
    ended = dict.fromkeys(_ENDED.values())
    if row.status in _ENDED:
        ended[_ENDED[row.status]] = _seconds(row.ended)
    used = row.usage
    return BatchShown(
        id=row.id,
        endpoint=row.batch.endpoint,
        errors=BatchProblems(problems) if problems else None,
        input_file_id=row.batch.input_file,
        completion_window=row.batch.window,
        status=row.status,
        output_file_id=row.output_file or None,
        error_file_id=row.error_file or None,
        created_at=_seconds(row.created),
        in_progress_at=_seconds(row.started),
        expires_at=_seconds(row.expires),
        finalizing_at=_seconds(row.finalizing),
        cancelling_at=_seconds(row.cancelling),
        **ended,
        request_counts=BatchCounts(row.total, row.completed, row.failed),
        usage=BatchUsage(
            used.prompt_tokens,
            BatchCachedTokens(used.cached_tokens),
            used.completion_tokens,
            ReasoningTokens(used.reasoning_tokens),
            used.prompt_tokens + used.completion_tokens,
        ),
        metadata=dict(row.batch.metadata) or None,
    )


def _seconds(at: int | None) -> int | None:
    return None if at is None else at // 1_000_000


def _found(row: BatchRow | None, identity: str) -> BatchRow:
    if row is None:
        raise BadRequest(404, f"batch {identity[:100]!r}: there is none", "batch_id", "not_found")
    return row


def batch_doors(desk: BatchDesk) -> list[Door]:
    """List the routes of files and of batches."""
    batches, path = BatchRoutes(desk), "/v1/batches"
    return [
        *file_doors(desk),
        Door(path, batches.create, "inference", methods=("POST",), operation=_CREATING),
        Door(path, batches.list, "inference", operation=_LISTING),
        Door(f"{path}/{{batch_id}}", batches.get, "inference", operation=_TELLING),
        Door(f"{path}/{{batch_id}}/cancel", batches.cancel, "inference", methods=("POST",), operation=_ENDING),
    ]
