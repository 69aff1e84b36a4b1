"""Messages, their events and errors, as Anthropic's clients read them.

They are written from dicts, piece by piece; a test holds them to these shapes.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType


class TextBlock(Struct, frozen=True, tag_field="type", tag="text"):
    """What is said."""

    text: str


class ThinkingBlock(Struct, frozen=True, tag_field="type", tag="thinking"):
    """What is thought."""

    thinking: str
    signature: str


class ToolUseBlock(Struct, frozen=True, tag_field="type", tag="tool_use"):
    """A tool that the client is to call."""

    id: str
    name: str
    input: dict[str, Any]


class SealedBlock(Struct, frozen=True, tag_field="type", tag="redacted_thinking"):
    """What only a provider can read of its thoughts."""

    data: str


BlockTold = TextBlock | ThinkingBlock | ToolUseBlock | SealedBlock


class ThinkingTokens(Struct, frozen=True):
    """What of the output was thought."""

    thinking_tokens: int


class MessageUsage(Struct, frozen=True):
    """Token counts; where a message begins only the first two are there."""

    input_tokens: int
    """Without what was cached."""
    output_tokens: int
    cache_read_input_tokens: int | UnsetType = UNSET
    cache_creation_input_tokens: int | UnsetType = UNSET
    output_tokens_details: ThinkingTokens | UnsetType = UNSET


StopReason = Literal["end_turn", "max_tokens", "tool_use", "stop_sequence"]


class AnthropicMessageTold(Struct, frozen=True, tag_field="type", tag="message"):
    """A message, whole or as it begins."""

    id: str
    role: Literal["assistant"]
    model: str
    content: list[BlockTold]
    stop_reason: StopReason | None
    """None where it begins."""
    stop_sequence: str | None
    stop_details: None
    usage: MessageUsage


class MessageStart(Struct, frozen=True, tag_field="type", tag="message_start"):
    """A message begins."""

    message: AnthropicMessageTold


class Ping(Struct, frozen=True, tag_field="type", tag="ping"):
    """Somebody is there."""


class BlockStart(Struct, frozen=True, tag_field="type", tag="content_block_start"):
    """A block begins."""

    index: int
    content_block: BlockTold


class TextDelta(Struct, frozen=True, tag_field="type", tag="text_delta"):
    """More is said."""

    text: str


class ThinkingDelta(Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    """More is thought."""

    thinking: str


class SignatureDelta(Struct, frozen=True, tag_field="type", tag="signature_delta"):
    """What was thought ends."""

    signature: str


class InputDelta(Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    """More of what a tool is called with: JSON."""

    partial_json: str


class BlockDelta(Struct, frozen=True, tag_field="type", tag="content_block_delta"):
    """A block grows."""

    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputDelta


class BlockStop(Struct, frozen=True, tag_field="type", tag="content_block_stop"):
    """A block ends."""

    index: int


class StopTold(Struct, frozen=True):
    """Why a message ended."""

    stop_reason: StopReason
    stop_sequence: str | None
    stop_details: None


class MessageDelta(Struct, frozen=True, tag_field="type", tag="message_delta"):
    """A message comes to its end."""

    delta: StopTold
    usage: MessageUsage


class MessageStop(Struct, frozen=True, tag_field="type", tag="message_stop"):
    """It is whole."""


class AnthropicProblem(Struct, frozen=True):
    """The inside of an error."""

    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "rate_limit_error",
        "overloaded_error",
        "timeout_error",
        "api_error",
    ]
    message: str
    param: str | None
    """From here on ours: what is wrong, for programs."""
    code: str | None


class AnthropicError(Struct, frozen=True, tag_field="type", tag="error"):
    """An error, which is also the last event of a stream that came to nothing."""

    error: AnthropicProblem


MessageEvent = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | AnthropicError
"""What the events of a message's stream carry."""


class TokensCounted(Struct, frozen=True):
    """How many tokens a model would be given."""

    input_tokens: int
