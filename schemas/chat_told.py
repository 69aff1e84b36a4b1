"""Answers to chat and to raw completions, as OpenAI's and vLLM's clients read them.

Whole answers and chunks of streams are written from dicts, token by token; a test holds them to these shapes.
"""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from schemas.openai import CompletionUsage


class TokenLogprob(Struct, frozen=True):
    """What a model made of a token."""

    token: str
    logprob: float | None
    """None is the first of a prompt, which nothing came before."""
    bytes: list[int]


class ChosenLogprob(TokenLogprob, frozen=True):
    """What it made of one that it chose, and of the likeliest in its place."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Struct, frozen=True):
    """What it made of the tokens of an answer."""

    content: list[ChosenLogprob]
    refusal: None


class PromptLogprob(Struct, frozen=True):
    """What it made of a token of the prompt."""

    logprob: float | None
    rank: int | None
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""Of each token of a prompt but the first, by token ids."""


class FunctionTold(Struct, frozen=True):
    """A function, and what it is called with: JSON."""

    name: str
    arguments: str


class CustomTold(Struct, frozen=True):
    """A custom tool, and what it is called with."""

    name: str
    input: str


class FunctionCallTold(Struct, frozen=True, tag_field="type", tag="function"):
    """A call of a function that the client carries out."""

    id: str
    function: FunctionTold


class CustomCallTold(Struct, frozen=True, tag_field="type", tag="custom"):
    """A call of a custom tool."""

    id: str
    custom: CustomTold


class ChatMessageTold(Struct, frozen=True):
    """What was answered."""

    role: Literal["assistant"]
    content: str | None
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    """The same: clients do not agree on its name."""
    tool_calls: list[FunctionCallTold | CustomCallTold] | UnsetType = UNSET


class ChatChoice(Struct, frozen=True):
    """One of the answers."""

    index: int
    message: ChatMessageTold
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    token_ids: list[int] | UnsetType = UNSET
    """From here on, vLLM's."""


class ChatCompletion(Struct, frozen=True, tag_field="object", tag="chat.completion"):
    """The answers to a chat."""

    id: str
    created: int
    """Seconds since the Unix epoch."""
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage
    service_tier: Literal["default"] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class FunctionPiece(Struct, frozen=True):
    """More of a function's arguments; its name comes first."""

    arguments: str
    name: str | UnsetType = UNSET


class CustomPiece(Struct, frozen=True):
    """More of what a custom tool is called with."""

    input: str
    name: str | UnsetType = UNSET


class CallPiece(Struct, frozen=True):
    """A piece of a call; the first of each has its id and type."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function", "custom"] | UnsetType = UNSET
    function: FunctionPiece | UnsetType = UNSET
    custom: CustomPiece | UnsetType = UNSET


class ChatDelta(Struct, frozen=True):
    """A piece of an answer."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[CallPiece] | UnsetType = UNSET


class ChatChunkChoice(Struct, frozen=True):
    """More of one of the answers."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    token_ids: list[int] | UnsetType = UNSET


class ChunkUsage(Struct, frozen=True):
    """Token counts at the end of a stream; while it goes on, the first three."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int] | UnsetType = UNSET
    completion_tokens_details: dict[str, int] | UnsetType = UNSET
    cost: float | UnsetType | None = UNSET


class ChatChunk(Struct, frozen=True, tag_field="object", tag="chat.completion.chunk"):
    """An event of a streamed chat; the last event is `[DONE]`, which is no JSON."""

    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    """None with the usage at the end."""
    usage: ChunkUsage | UnsetType = UNSET
    service_tier: Literal["default"] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class LegacyLogprobs(Struct, frozen=True):
    """What a model made of the tokens of a completion."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None] | None]
    text_offset: list[int]


class TextChoice(Struct, frozen=True):
    """What a prompt goes on with, or more of it."""

    index: int
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: str | None
    token_ids: list[int] | UnsetType = UNSET
    """From here on, vLLM's."""
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class TextCompletion(Struct, frozen=True, tag_field="object", tag="text_completion"):
    """What prompts go on with."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: CompletionUsage


class TextChunk(Struct, frozen=True, tag_field="object", tag="text_completion"):
    """An event of a streamed completion; the last event is `[DONE]`, which is no JSON."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: ChunkUsage | UnsetType = UNSET
