"""OpenAI completions, the older half of its API: a raw prompt in, text out; the part of it that is served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from schemas.commands import (
    Alternatives,
    Answers,
    BadWords,
    Bias,
    ExtraArgs,
    MinTokens,
    Penalty,
    Priority,
    PromptText,
    Repetition,
    RepetitionDetection,
    Share,
    TokenId,
    TokenIds,
    TopK,
    Truncation,
)
from schemas.generation import TruncationSide
from schemas.openai import StreamOptions, StructuredOutputs, TimeoutS
from schemas.wire import Wire

MOST_PROMPTS = 256
"""Prompts in one request."""


class CompletionRequest(Wire, frozen=True):
    """`POST /v1/completions`. Unknown fields are ignored; known ones with a value not served are refused."""

    model: str
    prompt: PromptText | Annotated[list[PromptText | TokenId | list[TokenId]], msgspec.Meta(min_length=1)]
    """A text, the token ids of one, or a list of texts or of such ids: one choice each."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    """16 unless given, as OpenAI has it."""
    seed: int | None = None
    stop: str | list[str] | None = None
    n: Answers | None = None
    """Choices for each prompt, which follow one another."""
    best_of: int | None = None
    echo: bool | None = None
    """Whether the text begins with the prompt."""
    logprobs: Alternatives | None = None
    """How many of the likeliest tokens are told beside each."""
    suffix: str | None = None
    prompt_embeds: Any = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[Mapping[TokenId, Bias], msgspec.Meta(max_length=1024)] | None = None
    top_k: TopK | None = None
    """From here on fields that OpenAI's API has not, named as vLLM's."""
    min_p: Share | None = None
    repetition_penalty: Repetition | None = None
    min_tokens: MinTokens | None = None
    stop_token_ids: TokenIds | None = None
    ignore_eos: bool | None = None
    allowed_token_ids: TokenIds | None = None
    bad_words: BadWords | None = None
    priority: Priority | None = None
    prompt_logprobs: Alternatives | None = None
    logprob_token_ids: TokenIds | None = None
    return_token_ids: bool | None = None
    repetition_detection: RepetitionDetection | None = None
    use_beam_search: bool | None = None
    length_penalty: Annotated[float, msgspec.Meta(ge=-10, le=10)] | None = None
    cache_salt: Annotated[str, msgspec.Meta(max_length=1000)] | None = None
    skip_reading_prefix_cache: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    vllm_xargs: ExtraArgs | None = None
    """What logits processors of other packages are told, by their names."""
    truncate_prompt_tokens: Truncation | None = None
    truncation_side: TruncationSide | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Any = None
    """Older names, which are refused: what they asked for must not be left out in silence."""
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    guided_json_object: Any = None
    guided_whitespace_pattern: Any = None
    guided_decoding_backend: Any = None
    structural_tag: Any = None
    timeout_s: TimeoutS | None = None
    """Ours: seconds after which it ends with status 504, answered or not."""
