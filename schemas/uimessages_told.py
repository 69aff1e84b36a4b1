"""The AI SDK's UI message stream and stored messages, as its clients read them.

They are written from dicts, piece by piece; a test holds them to these shapes.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType


class UiChunk(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type"):
    """What every chunk is."""


class UiStarted(Struct, frozen=True, rename="camel"):
    """Whose message it is."""

    run_id: str
    thread_id: str


class UiStart(UiChunk, frozen=True, kw_only=True, rename="camel", tag="start"):
    """A message begins."""

    message_id: str
    message_metadata: UiStarted


class UiStartStep(UiChunk, frozen=True, kw_only=True, tag="start-step"):
    """A step begins."""


class UiResetStep(UiChunk, frozen=True, kw_only=True, tag="reset-step"):
    """A step begins again: what it said is void."""


class UiFinishStep(UiChunk, frozen=True, kw_only=True, tag="finish-step"):
    """A step ends."""


class _OfPart(UiChunk, frozen=True, kw_only=True):
    id: str


class UiTextStart(_OfPart, frozen=True, kw_only=True, tag="text-start"):
    """Something is said."""


class UiTextDelta(_OfPart, frozen=True, kw_only=True, tag="text-delta"):
    """More of it."""

    delta: str


class UiTextEnd(_OfPart, frozen=True, kw_only=True, tag="text-end"):
    """That was all."""


class UiReasoningStart(_OfPart, frozen=True, kw_only=True, tag="reasoning-start"):
    """Something is thought."""


class UiReasoningDelta(_OfPart, frozen=True, kw_only=True, tag="reasoning-delta"):
    """More of it."""

    delta: str


class UiReasoningEnd(_OfPart, frozen=True, kw_only=True, tag="reasoning-end"):
    """That was all."""


class _OfCall(UiChunk, frozen=True, kw_only=True, rename="camel"):
    tool_call_id: str


class UiInputStart(_OfCall, frozen=True, kw_only=True, rename="camel", tag="tool-input-start"):
    """A tool is called."""

    tool_name: str


class UiInputDelta(_OfCall, frozen=True, kw_only=True, rename="camel", tag="tool-input-delta"):
    """More of what with."""

    input_text_delta: str


class UiInputAvailable(_OfCall, frozen=True, kw_only=True, rename="camel", tag="tool-input-available"):
    """All of it."""

    tool_name: str
    input: Any


class UiInputError(_OfCall, frozen=True, kw_only=True, rename="camel", tag="tool-input-error"):
    """It is no JSON."""

    tool_name: str
    input: str
    error_text: str


class UiApprovalRequest(_OfCall, frozen=True, kw_only=True, rename="camel", tag="tool-approval-request"):
    """A person is to agree to it."""

    approval_id: str


class UiApprovalResponse(UiChunk, frozen=True, kw_only=True, rename="camel", tag="tool-approval-response"):
    """Whether one did."""

    approval_id: str
    approved: bool
    reason: str | UnsetType = UNSET


class UiOutputAvailable(_OfCall, frozen=True, kw_only=True, rename="camel", tag="tool-output-available"):
    """What it came to."""

    output: Any


class UiOutputError(_OfCall, frozen=True, kw_only=True, rename="camel", tag="tool-output-error"):
    """Why it came to nothing."""

    error_text: str


class UiOutputDenied(_OfCall, frozen=True, kw_only=True, rename="camel", tag="tool-output-denied"):
    """Nobody agreed."""


class UiProgressed(Struct, frozen=True, rename="camel"):
    """How a tool gets on."""

    tool_call_id: str
    number: int
    data: Any


class UiProgress(_OfPart, frozen=True, kw_only=True, tag="data-progress"):
    """The same, as a part that is not kept."""

    data: UiProgressed
    transient: Literal[True]


class UiRemembered(Struct, frozen=True):
    """What is kept in mind from here on."""

    scope: str
    topic: str
    text: str


class UiMemory(UiChunk, frozen=True, kw_only=True, tag="data-memory"):
    """The same, as a part that is not kept."""

    data: UiRemembered
    transient: Literal[True]


class UiWaited(Struct, frozen=True, rename="camel"):
    """What a call waits for."""

    kind: Literal["data", "caller"]
    effect: str
    tool_call_id: str
    payload: Any = UNSET
    """From here on of `data`."""
    schema: dict[str, Any] | UnsetType | None = UNSET
    problem: str | UnsetType = UNSET


class UiWaiting(_OfPart, frozen=True, kw_only=True, tag="data-waiting"):
    """The same, as a part."""

    data: UiWaited


class UiUsage(Struct, frozen=True, rename="camel"):
    """Token counts."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    cached_input_tokens: int
    reasoning_tokens: int


class UiFinished(Struct, frozen=True):
    """What it took."""

    usage: UiUsage
    steps: int


class UiFinish(UiChunk, frozen=True, kw_only=True, rename="camel", tag="finish"):
    """A message is whole, or its client is to act."""

    finish_reason: str
    message_metadata: UiFinished | UnsetType = UNSET


class UiAbort(UiChunk, frozen=True, kw_only=True, tag="abort"):
    """Somebody ended it."""

    reason: str


class UiError(UiChunk, frozen=True, kw_only=True, rename="camel", tag="error"):
    """It came to nothing."""

    error_text: str


UiTold = (
    UiStart
    | UiStartStep
    | UiResetStep
    | UiFinishStep
    | UiTextStart
    | UiTextDelta
    | UiTextEnd
    | UiReasoningStart
    | UiReasoningDelta
    | UiReasoningEnd
    | UiInputStart
    | UiInputDelta
    | UiInputAvailable
    | UiInputError
    | UiApprovalRequest
    | UiApprovalResponse
    | UiOutputAvailable
    | UiOutputError
    | UiOutputDenied
    | UiProgress
    | UiMemory
    | UiWaiting
    | UiFinish
    | UiAbort
    | UiError
)
"""What the events of a stream carry; the last event is `[DONE]`, which is no JSON."""


class UiApprovalTold(Struct, frozen=True):
    """Whether a person agreed."""

    id: str
    approved: bool | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class UiPartTold(Struct, frozen=True, rename="camel"):
    """A part of a message, of whatever `type`: each has some of the fields."""

    type: str
    text: str | UnsetType = UNSET
    state: str | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET
    input: Any = UNSET
    output: Any = UNSET
    error_text: str | UnsetType = UNSET
    approval: UiApprovalTold | UnsetType = UNSET
    id: str | UnsetType = UNSET
    data: UiWaited | UnsetType = UNSET


class UiMetadata(Struct, frozen=True, rename="camel"):
    """Which run a message is, and what that took."""

    run_id: str
    thread_id: str
    usage: UiUsage | UnsetType = UNSET
    steps: int | UnsetType = UNSET


class UiMessageTold(Struct, frozen=True):
    """A message of a conversation."""

    id: str
    role: Literal["user", "assistant"]
    parts: list[UiPartTold]
    metadata: UiMetadata | UnsetType = UNSET
