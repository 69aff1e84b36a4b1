"""Files and batches, as OpenAI's clients read them. Times are seconds since the Unix epoch."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from schemas.batches import Endpoint
from schemas.responses_told import ReasoningTokens


class FileShown(Struct, frozen=True, tag_field="object", tag="file"):
    """A file."""

    id: str
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class FilesQuery(Struct, frozen=True):
    """Which files."""

    purpose: str | None = None
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    """The id of the last one before."""
    limit: int = 10_000


class FilePage(Struct, frozen=True, tag_field="object", tag="list"):
    """A page of files."""

    data: list[FileShown]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(Struct, frozen=True, tag_field="object", tag="file"):
    """A file that is gone for good."""

    id: str
    deleted: Literal[True]


class BatchProblem(Struct, frozen=True):
    """Why a file is no batch."""

    code: str
    line: int | None
    """From 1; None is the whole file."""
    message: str
    param: str | None


class BatchProblems(Struct, frozen=True, tag_field="object", tag="list"):
    """Why a file is no batch, line by line."""

    data: list[BatchProblem]


class BatchCounts(Struct, frozen=True):
    """How many of its requests are answered."""

    total: int
    completed: int
    failed: int


class BatchCachedTokens(Struct, frozen=True):
    """What of the input was known already."""

    cached_tokens: int


class BatchUsage(Struct, frozen=True):
    """Token counts."""

    input_tokens: int
    input_tokens_details: BatchCachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class BatchShown(Struct, frozen=True, tag_field="object", tag="batch"):
    """A batch, and how it stands."""

    id: str
    endpoint: Endpoint
    errors: BatchProblems | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int | None
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    cancelling_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelled_at: int | None
    request_counts: BatchCounts
    usage: BatchUsage
    metadata: dict[str, str] | None


class BatchesQuery(Struct, frozen=True):
    """Which batches."""

    after: str | None = None
    """The id of the last one before."""
    limit: int = 20
    """At most 100."""


class BatchPage(Struct, frozen=True, tag_field="object", tag="list"):
    """A page of batches, the latest first."""

    data: list[BatchShown]
    first_id: str | None
    last_id: str | None
    has_more: bool
