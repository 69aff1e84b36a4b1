"""Responses, their items and their events, as OpenAI's clients read them.

They are written from dicts, piece by piece; a test holds them to these shapes.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from schemas.chat_told import ChosenLogprob

_Status = Literal["in_progress", "completed", "incomplete"]


class OutputText(Struct, frozen=True, tag_field="type", tag="output_text"):
    """What was said."""

    text: str
    annotations: list[Any]
    logprobs: list[ChosenLogprob]


class ReasoningText(Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    """What was thought."""

    text: str


class MessageItem(Struct, frozen=True, tag_field="type", tag="message"):
    """Something said."""

    id: str
    status: _Status
    role: Literal["assistant"]
    content: list[OutputText]


class ReasoningItem(Struct, frozen=True, tag_field="type", tag="reasoning"):
    """Something thought, or what only a provider can read of it."""

    id: str
    status: _Status
    summary: list[Any]
    content: list[ReasoningText] | UnsetType = UNSET
    encrypted_content: str | UnsetType = UNSET


class FunctionCallItem(Struct, frozen=True, tag_field="type", tag="function_call"):
    """A function that the client is to call."""

    id: str
    status: _Status
    call_id: str
    name: str
    arguments: str


class CustomCallItem(Struct, frozen=True, tag_field="type", tag="custom_tool_call"):
    """A custom tool that the client is to call."""

    id: str
    status: _Status
    call_id: str
    name: str
    input: str


ItemTold = MessageItem | ReasoningItem | FunctionCallItem | CustomCallItem


class ResponseError(Struct, frozen=True):
    """Why a response failed."""

    code: str | None
    message: str


class IncompleteDetails(Struct, frozen=True):
    """Why one was cut off."""

    reason: Literal["max_output_tokens"]


class CachedTokens(Struct, frozen=True):
    """What of the input was known already."""

    cached_tokens: int
    cache_write_tokens: int


class ReasoningTokens(Struct, frozen=True):
    """What of the output was thought."""

    reasoning_tokens: int


class ResponseUsage(Struct, frozen=True):
    """Token counts."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ReasoningTold(Struct, frozen=True):
    """How much was to be thought."""

    effort: str | None
    summary: str | None


class ResponseTold(Struct, frozen=True, tag_field="object", tag="response"):
    """A response as it stands."""

    id: str
    created_at: int
    """Seconds since the Unix epoch."""
    model: str
    status: Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    output: list[ItemTold]
    usage: ResponseUsage | None
    instructions: str | None
    parallel_tool_calls: bool
    tools: list[dict[str, Any]]
    tool_choice: str | dict[str, Any]
    temperature: float | None
    top_p: float | None
    top_logprobs: int | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    previous_response_id: str | None
    text: dict[str, Any]
    reasoning: ReasoningTold
    truncation: str
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    store: bool
    background: bool
    service_tier: Literal["default"]


class _Numbered(Struct, frozen=True, kw_only=True):
    sequence_number: int


class ResponseCreated(_Numbered, frozen=True, tag_field="type", tag="response.created"):
    """It is there."""

    response: ResponseTold


class ResponseInProgress(_Numbered, frozen=True, tag_field="type", tag="response.in_progress"):
    """It goes on."""

    response: ResponseTold


class ResponseCompleted(_Numbered, frozen=True, tag_field="type", tag="response.completed"):
    """It is whole."""

    response: ResponseTold


class ResponseIncomplete(_Numbered, frozen=True, tag_field="type", tag="response.incomplete"):
    """It was cut off."""

    response: ResponseTold


class ResponseFailed(_Numbered, frozen=True, tag_field="type", tag="response.failed"):
    """It came to nothing."""

    response: ResponseTold


class _OfItem(_Numbered, frozen=True, kw_only=True):
    output_index: int


class ItemAdded(_OfItem, frozen=True, tag_field="type", tag="response.output_item.added"):
    """An item begins."""

    item: ItemTold


class ItemDone(_OfItem, frozen=True, tag_field="type", tag="response.output_item.done"):
    """An item is whole."""

    item: ItemTold


class _Within(_OfItem, frozen=True, kw_only=True):
    item_id: str


class _OfPart(_Within, frozen=True, kw_only=True):
    content_index: int


class PartAdded(_OfPart, frozen=True, tag_field="type", tag="response.content_part.added"):
    """A part of an item begins."""

    part: OutputText | ReasoningText


class PartDone(_OfPart, frozen=True, tag_field="type", tag="response.content_part.done"):
    """A part of an item is whole."""

    part: OutputText | ReasoningText


class TextGrew(_OfPart, frozen=True, tag_field="type", tag="response.output_text.delta"):
    """More is said."""

    delta: str
    logprobs: list[ChosenLogprob]


class TextDone(_OfPart, frozen=True, tag_field="type", tag="response.output_text.done"):
    """All is said."""

    text: str
    logprobs: list[ChosenLogprob]


class ReasoningGrew(_OfPart, frozen=True, tag_field="type", tag="response.reasoning_text.delta"):
    """More is thought."""

    delta: str


class ReasoningDone(_OfPart, frozen=True, tag_field="type", tag="response.reasoning_text.done"):
    """All is thought."""

    text: str


class ArgumentsGrew(_Within, frozen=True, tag_field="type", tag="response.function_call_arguments.delta"):
    """More of a call's arguments."""

    delta: str


class ArgumentsDone(_Within, frozen=True, tag_field="type", tag="response.function_call_arguments.done"):
    """All of them."""

    name: str
    arguments: str


class InputGrew(_Within, frozen=True, tag_field="type", tag="response.custom_tool_call_input.delta"):
    """More of what a custom tool is called with."""

    delta: str


class InputDone(_Within, frozen=True, tag_field="type", tag="response.custom_tool_call_input.done"):
    """All of it."""

    input: str


class StreamBroken(Struct, frozen=True, tag_field="type", tag="error"):
    """A stream cannot go on."""

    message: str
    code: str | None
    param: str | None


ResponseEvent = (
    ResponseCreated
    | ResponseInProgress
    | ResponseCompleted
    | ResponseIncomplete
    | ResponseFailed
    | ItemAdded
    | ItemDone
    | PartAdded
    | PartDone
    | TextGrew
    | TextDone
    | ReasoningGrew
    | ReasoningDone
    | ArgumentsGrew
    | ArgumentsDone
    | InputGrew
    | InputDone
    | StreamBroken
)
"""What the events of a response's stream carry."""


class InputItemTold(Struct, frozen=True):
    """Something that a response was asked with, of whatever `type`: each has some of the fields, hosted calls more."""

    id: str
    type: str
    status: str | UnsetType = UNSET
    role: Literal["system", "user", "assistant"] | UnsetType = UNSET
    content: list[dict[str, Any]] | UnsetType = UNSET
    call_id: str | UnsetType | None = UNSET
    name: str | UnsetType = UNSET
    arguments: Any = UNSET
    input: str | UnsetType = UNSET
    output: Any = UNSET
    action: Any = UNSET
    operation: Any = UNSET
    summary: list[Any] | UnsetType = UNSET


class InputItems(Struct, frozen=True, tag_field="object", tag="list"):
    """A page of what a response was asked with."""

    data: list[InputItemTold]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ResponseDeleted(Struct, frozen=True, tag_field="object", tag="response"):
    """A response that is shown no more."""

    id: str
    deleted: Literal[True]


class ResponseQuery(Struct, frozen=True):
    """How a response is told."""

    stream: bool = False
    """As events, from the first one on."""
    starting_after: int | None = None
    """The number of the last event that is not told again; of streams alone."""


class InputItemsQuery(Struct, frozen=True):
    """Which items."""

    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    """The id of the last one before."""
    limit: int = 20
    """At most 100."""
