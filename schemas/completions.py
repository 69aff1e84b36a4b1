"""OpenAI completions, the older half of its API: a raw prompt in, text out; the part of it that is served."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from schemas.commands import Alternatives, PromptText, TokenId
from schemas.openai import AnswerRequest

MOST_PROMPTS = 256
"""Prompts in one request."""


class CompletionRequest(AnswerRequest, frozen=True, kw_only=True):
    """`POST /v1/completions`. Unknown fields are ignored; known ones with a value not served are refused.

    `max_tokens` is 16 unless given, as OpenAI has it; `n` choices of each prompt follow one another.
    """

    prompt: PromptText | Annotated[list[PromptText | TokenId | list[TokenId]], msgspec.Meta(min_length=1)]
    """A text, the token ids of one, or a list of texts or of such ids: one choice each."""
    best_of: int | None = None
    echo: bool | None = None
    """Whether the text begins with the prompt."""
    logprobs: Alternatives | None = None
    """How many of the likeliest tokens are told beside each."""
    suffix: str | None = None
    prompt_embeds: Any = None
    thinking_token_budget: Any = None
