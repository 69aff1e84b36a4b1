"""AG-UI's events, as its clients read them.

They are written from dicts, piece by piece; a test holds them to these shapes.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType


class AguiEvent(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type"):
    """What every event is."""


class InterruptTold(Struct, frozen=True, rename="camel"):
    """What a run waits for."""

    id: str
    tool_call_id: str
    reason: Literal["tool_approval", "input_required"]
    message: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    response_schema: dict[str, Any] | UnsetType = UNSET
    """Of the answer: a JSON Schema."""


class OutcomeSuccess(Struct, frozen=True, rename="camel", tag_field="type", tag="success"):
    """It is over, or its client is to carry out calls."""

    pending_tool_call_ids: list[str] | UnsetType = UNSET


class OutcomeInterrupt(Struct, frozen=True, tag_field="type", tag="interrupt"):
    """Its client is to answer."""

    interrupts: list[InterruptTold]


class OutcomeCancelled(Struct, frozen=True, tag_field="type", tag="cancelled"):
    """Somebody ended it."""


class AguiUsage(Struct, frozen=True, rename="camel"):
    """Token counts."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    reasoning_tokens: int
    cached_input_tokens: int


class RunStartedTold(AguiEvent, frozen=True, kw_only=True, rename="camel", tag="RUN_STARTED"):
    """The first event."""

    thread_id: str
    run_id: str
    protocol_version: str
    parent_run_id: str | UnsetType = UNSET


class RunFinishedTold(AguiEvent, frozen=True, kw_only=True, rename="camel", tag="RUN_FINISHED"):
    """The last event."""

    thread_id: str
    run_id: str
    outcome: OutcomeSuccess | OutcomeInterrupt | OutcomeCancelled
    result: str | UnsetType = UNSET
    usage: list[AguiUsage] | UnsetType = UNSET


class RunErrorTold(AguiEvent, frozen=True, kw_only=True, rename="camel", tag="RUN_ERROR"):
    """The last event of a run that came to nothing."""

    message: str
    code: str | UnsetType = UNSET
    usage: list[AguiUsage] | UnsetType = UNSET


class _OfMessage(AguiEvent, frozen=True, kw_only=True, rename="camel"):
    message_id: str


class TextStart(_OfMessage, frozen=True, kw_only=True, rename="camel", tag="TEXT_MESSAGE_START"):
    """Something is said."""

    role: Literal["assistant"]


class TextContent(_OfMessage, frozen=True, kw_only=True, rename="camel", tag="TEXT_MESSAGE_CONTENT"):
    """More of it."""

    delta: str


class TextEnd(_OfMessage, frozen=True, kw_only=True, rename="camel", tag="TEXT_MESSAGE_END"):
    """That was all."""


class ReasoningStart(_OfMessage, frozen=True, kw_only=True, rename="camel", tag="REASONING_START"):
    """It is thought."""


class ReasoningMessageStart(_OfMessage, frozen=True, kw_only=True, rename="camel", tag="REASONING_MESSAGE_START"):
    """Something is thought."""

    role: Literal["reasoning"]


class ReasoningMessageContent(_OfMessage, frozen=True, kw_only=True, rename="camel", tag="REASONING_MESSAGE_CONTENT"):
    """More of it."""

    delta: str


class ReasoningMessageEnd(_OfMessage, frozen=True, kw_only=True, rename="camel", tag="REASONING_MESSAGE_END"):
    """That was all."""


class ReasoningEnd(_OfMessage, frozen=True, kw_only=True, rename="camel", tag="REASONING_END"):
    """It is thought no more."""


class _OfCall(AguiEvent, frozen=True, kw_only=True, rename="camel"):
    tool_call_id: str


class CallStart(_OfCall, frozen=True, kw_only=True, rename="camel", tag="TOOL_CALL_START"):
    """A tool is called."""

    tool_call_name: str
    parent_message_id: str


class CallArgs(_OfCall, frozen=True, kw_only=True, rename="camel", tag="TOOL_CALL_ARGS"):
    """More of its arguments."""

    delta: str


class CallEnd(_OfCall, frozen=True, kw_only=True, rename="camel", tag="TOOL_CALL_END"):
    """Those were all."""


class CallResult(_OfCall, frozen=True, kw_only=True, rename="camel", tag="TOOL_CALL_RESULT"):
    """What it came to."""

    message_id: str
    content: str
    role: Literal["tool"]


class StepStartedTold(AguiEvent, frozen=True, kw_only=True, rename="camel", tag="STEP_STARTED"):
    """A step begins."""

    step_name: str


class StepFinishedTold(AguiEvent, frozen=True, kw_only=True, rename="camel", tag="STEP_FINISHED"):
    """A step ends."""

    step_name: str


class StateSnapshot(AguiEvent, frozen=True, kw_only=True, tag="STATE_SNAPSHOT"):
    """What the thread keeps in mind, beside what its client has."""

    snapshot: dict[str, Any]


class PatchStep(Struct, frozen=True):
    """A step of a JSON Patch."""

    op: Literal["add"]
    path: str
    value: Any


class StateDelta(AguiEvent, frozen=True, kw_only=True, tag="STATE_DELTA"):
    """What of that is otherwise now: a JSON Patch."""

    delta: list[PatchStep]


class AguiFunctionTold(Struct, frozen=True):
    """What a call is of."""

    name: str
    arguments: str


class AguiCallTold(Struct, frozen=True):
    """A call in a message."""

    id: str
    type: Literal["function"]
    function: AguiFunctionTold


class AguiMessageTold(Struct, frozen=True, rename="camel"):
    """A message of a thread."""

    id: str
    role: Literal["user", "assistant", "reasoning", "tool"]
    content: str | UnsetType = UNSET
    tool_calls: list[AguiCallTold] | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET


class MessagesSnapshot(AguiEvent, frozen=True, kw_only=True, tag="MESSAGES_SNAPSHOT"):
    """What was said in a thread."""

    messages: list[AguiMessageTold]


class CustomEvent(AguiEvent, frozen=True, kw_only=True, tag="CUSTOM"):
    """What the protocol has no event for: how a tool gets on, or that a step begins again."""

    name: Literal["progress", "step_reset"]
    value: dict[str, Any]


AguiTold = (
    RunStartedTold
    | RunFinishedTold
    | RunErrorTold
    | TextStart
    | TextContent
    | TextEnd
    | ReasoningStart
    | ReasoningMessageStart
    | ReasoningMessageContent
    | ReasoningMessageEnd
    | ReasoningEnd
    | CallStart
    | CallArgs
    | CallEnd
    | CallResult
    | StepStartedTold
    | StepFinishedTold
    | StateSnapshot
    | StateDelta
    | MessagesSnapshot
    | CustomEvent
)
"""What the events of a run's stream carry."""
