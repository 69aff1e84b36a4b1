"""Batches: files of requests, answered when there is room; commands on `in.<tenant>.batch.<id>.<verb>`, and events.

A batch is a thread of its own: its id is the thread's. Times are microseconds since the Unix epoch. Lines are counted
from 0, without those that are blank; what they ask and what they are answered is in files (`bus.files`), not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from schemas.messages import Usage
from schemas.wire import Wire

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
Outcome = Literal["completed", "cancelled", "expired"]

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Note = Annotated[str, msgspec.Meta(max_length=512)]
MOST_WINDOW_S = 14 * 86_400


class Batch(Wire, frozen=True):
    """What is to be answered."""

    input_file: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    endpoint: Endpoint
    """That of every line."""
    window_s: Annotated[int, msgspec.Meta(ge=1, le=MOST_WINDOW_S)] = 86_400
    """Seconds after which what is not answered never will be."""
    window: Annotated[str, msgspec.Meta(max_length=20)] = "24h"
    """The same, as its client wrote it."""
    metadata: Annotated[Mapping[Name, Note], msgspec.Meta(max_length=16)] = {}
    output_expires_s: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Seconds that its files are kept; 0 is until they are deleted."""


class CreateBatch(Wire, frozen=True, tag="submit"):
    """Begin a batch. `in.<tenant>.batch.<id>.submit`."""

    batch: Batch


class CancelBatch(Wire, frozen=True, tag="withdraw"):
    """End one: what is answered by then stays. `in.<tenant>.batch.<id>.withdraw`."""


BatchCommand = CreateBatch | CancelBatch


class LineProblem(Wire, frozen=True):
    """Why a file is no batch."""

    code: str
    message: str
    line: int | None = None
    """From 1; None is the whole file."""
    param: str | None = None


class BatchCreated(Wire, frozen=True, tag="batch.created"):
    """The intention to read the file."""

    batch: Batch
    at: int
    expires: int


class BatchRead(Wire, frozen=True, tag="batch.read"):
    """The file was read, or why nothing comes of it."""

    effect: str
    """Structural: `<batch>-r`."""
    at: int
    total: int
    width: int
    """Lines that are answered at a time, in their order."""
    problems: tuple[LineProblem, ...] = ()


class BatchLinesBegun(Wire, frozen=True, tag="batch.lines_begun"):
    """The intention to answer more lines."""

    until: int
    """All those below this one are begun by now."""


class BatchLineEnded(Wire, frozen=True, tag="batch.line_ended"):
    """A line has its answer, which is in a file."""

    effect: str
    """Structural: `<batch>-<line>`."""
    line: int
    failed: bool = False
    """Whether the answer is an error."""
    usage: Usage = Usage()


class BatchCancelling(Wire, frozen=True, tag="batch.cancelling"):
    """Somebody ended it; `batch.finalizing` follows."""

    at: int
    by: str = ""
    """Source of the command."""


class BatchExpired(Wire, frozen=True, tag="batch.expired"):
    """Its time is over; `batch.finalizing` follows."""

    effect: str
    """Structural: `<batch>-x`."""
    at: int


class BatchFinalizing(Wire, frozen=True, tag="batch.finalizing"):
    """No line is answered any more: the intention to close the files."""

    outcome: Outcome
    at: int


class BatchWritten(Wire, frozen=True, tag="batch.written"):
    """The files are closed: it is over."""

    effect: str
    """Structural: `<batch>-w`."""
    outcome: Outcome
    at: int
    output_file: str = ""
    """Empty where there is not one line for it."""
    error_file: str = ""
    completed: int = 0
    """Lines of the output file: what counts."""
    failed: int = 0


BatchEvent = (
    BatchCreated
    | BatchRead
    | BatchLinesBegun
    | BatchLineEnded
    | BatchCancelling
    | BatchExpired
    | BatchFinalizing
    | BatchWritten
)


class BatchLine(Wire, frozen=True):
    """A line of an input file, as OpenAI's clients write it."""

    custom_id: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    method: str
    url: str
    body: dict[str, Any]
