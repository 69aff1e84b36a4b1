"""Anthropic messages, the part of it that is served, as its clients write it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from schemas.messages import Effort
from schemas.wire import Wire


class Block(Wire, frozen=True):
    """A part of a message, of whatever `type`: each has some of the fields."""

    type: str
    text: str = ""
    thinking: str = ""
    data: str = ""
    """Of `redacted_thinking`."""
    id: str = ""
    name: str = ""
    input: dict[str, Any] = {}  # noqa: RUF012  a struct's default is copied
    tool_use_id: str = ""
    content: Any = None
    """Of `tool_result`: a text or a list of blocks."""
    is_error: bool | None = None
    source: Any = None
    """Of `document` and `image`."""


class AnthropicMessage(Wire, frozen=True):
    """One message of a request."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class AnthropicTool(Wire, frozen=True):
    """A tool the client offers."""

    name: str
    input_schema: dict[str, Any] | None = None
    description: str = ""
    type: str | None = None
    strict: bool | None = None


class AnthropicToolChoice(Wire, frozen=True):
    """What may be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool = False


class ThinkingAsked(Wire, frozen=True):
    """Whether the model thinks first, and whether that is told."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputConfig(Wire, frozen=True):
    """What an answer is to look like, and how much is thought for it."""

    format: dict[str, Any] | None = None
    effort: Effort | None = None


class AboutUser(Wire, frozen=True):
    """Who asks, as the client says."""

    user_id: Annotated[str, msgspec.Meta(max_length=512)] | None = None


class MessagesRequest(Wire, frozen=True, kw_only=True):
    """`POST /v1/messages`, and without `max_tokens` `POST /v1/messages/count_tokens`. Unknown fields are ignored."""

    model: str
    messages: list[AnthropicMessage]
    max_tokens: int | None = None
    system: str | list[Block] | None = None
    stream: bool = False
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1, lt=1 << 31)] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: ThinkingAsked | None = None
    output_config: OutputConfig | None = None
    output_format: dict[str, Any] | None = None
    """What `output_config.format` was before."""
    metadata: AboutUser | None = None
    mcp_servers: Any = None
    """From here on fields that are known and not served."""
    container: Any = None
