"""OpenAI responses, the part of it that is served, as its clients write it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from schemas.commands import Alternatives
from schemas.messages import Effort
from schemas.openai import Noted, StreamOptions, Verbosity
from schemas.wire import Wire


class Part(Wire, frozen=True):
    """A piece of a message, a result or a thought."""

    type: str
    text: str = ""
    image_url: str | None = None
    """Of `input_image`."""
    detail: Literal["auto", "low", "high"] | None = None


class InputItem(Wire, frozen=True):
    """Something that was said, called or thought, of whatever `type`: each has some of the fields."""

    type: str = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[Part] | None = None
    call_id: str = ""
    name: str = ""
    arguments: str | dict[str, Any] = ""
    input: str = ""
    """Of `custom_tool_call`."""
    action: dict[str, Any] | None = None
    """Of calls of a shell, of a computer and of a web search."""
    id: str | None = None
    output: str | list[dict[str, Any]] | dict[str, Any] | None = ""
    summary: list[Part] | None = None
    encrypted_content: str | None = None
    operation: dict[str, Any] | None = None
    """Of `apply_patch_call`."""
    server_label: str = ""
    """Of `mcp_call`."""
    error: Any = None
    code: str | None = None
    """Of `code_interpreter_call`, as the next."""
    outputs: list[dict[str, Any]] | None = None
    queries: list[str] | None = None
    """Of `file_search_call`, as the next."""
    results: list[dict[str, Any]] | None = None


class ReasoningAsked(Wire, frozen=True):
    """How much is to be thought."""

    effort: Effort | None = None
    summary: str | None = None


class TextAsked(Wire, frozen=True):
    """What the answer is to look like."""

    format: dict[str, Any] | None = None
    verbosity: Verbosity | None = None


class ResponsesRequest(Wire, frozen=True, kw_only=True):
    """`POST /v1/responses`. Unknown fields are ignored; known ones with a value not served are refused."""

    model: str
    input: str | list[InputItem] = ""
    instructions: str | None = None
    previous_response_id: str | None = None
    stream: bool = False
    store: bool | None = None
    background: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Alternatives | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: TextAsked | None = None
    reasoning: ReasoningAsked | None = None
    include: list[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: Annotated[dict[str, str], msgspec.Meta(max_length=16)] | None = None
    user: str | None = None
    safety_identifier: Noted | None = None
    prompt_cache_key: Noted | None = None
    stream_options: StreamOptions | None = None
    more: dict[str, Any] = msgspec.field(default_factory=dict, name="ostinato_more")
    """Fields of vLLM's that were given; a client's own field of this name is overwritten."""
    conversation: Any = None
    """From here on fields that are known and not served."""
    prompt: Any = None
    max_tool_calls: Any = None
    service_tier: Any = None
    moderation: Any = None
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None
