"""Fields of vLLM's and OpenAI's requests that would be left out in silence: what is not served, and what needs another
field to mean anything, is refused by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from schemas.completions import CompletionRequest
from schemas.openai import AnswerRequest, ChatRequest

Check = tuple[str, bool, str]
"""A field, whether it fits, and what it should be."""

_Unserved = dict[str, tuple[tuple[object, ...], str]]
"""By field: the values that change nothing, and what can be done."""

TIERS: Final = ("auto", "default", "flex", "priority")
"""That may be asked for; all are `default`, and it is told so."""

_ANY: Final[_Unserved] = {
    "watermarking": ((False,), "answers are not marked: leave it out"),
    "return_token_offsets": ((False,), "there are none: `return_token_ids` tells the tokens"),
    "return_mm_kwargs": ((True,), "there are no media here: leave it out"),
    "mm_processor_kwargs": (({},), "there are no media here: leave it out"),
    "kv_transfer_params": (({},), "the engine moves its blocks itself: leave it out"),
    "ec_transfer_params": (({},), "there is no encoder of media here: leave it out"),
    "service_tier": (TIERS, f"there is one tier, whichever is asked for: {', '.join(TIERS)}"),
    "store": ((False,), "answers are not found again by their ids: leave it out, or ask /v1/responses"),
    "moderation": ((), "nothing is judged here: leave it out, or ask an agent with guards"),
    "prompt_cache_retention": (("in_memory", "in-memory"), "blocks stay while there is room: leave it out"),
    "return_weight_versions": ((False,), "weights have no versions: leave it out"),
    "routed_experts_prompt_start": ((0,), "of experts nothing is told: leave it out"),
}
_CHAT: Final[_Unserved] = {
    "media_io_kwargs": (({},), "there are no media here: leave it out"),
    "add_special_tokens": ((False,), "the chat template writes them: leave it out"),
    "return_prompt_text": ((False,), "it is not kept: `return_token_ids` tells the prompt's tokens"),
    "functions": (([],), "this name is not served any more: give `tools`"),
    "function_call": ((), "this name is not served any more: give `tool_choice`"),
    "modalities": ((["text"],), "answers are texts: leave it out"),
    "audio": ((), "answers are texts: leave it out"),
    "web_search_options": ((), "nothing is searched for: leave it out, or give a tool that does"),
}
_COMPLETION: Final[_Unserved] = {
    "add_special_tokens": ((False,), "a raw prompt is taken as it is: write them into it"),
    "thinking_token_budget": ((-1,), "what follows on a raw prompt is text alone: ask /v1/chat/completions"),
}


def unserved_checks(request: AnswerRequest) -> Iterator[Check]:
    """Look at what is known and not served."""
    own = _CHAT if isinstance(request, ChatRequest) else _COMPLETION if isinstance(request, CompletionRequest) else {}
    for name, (neutral, mend) in (_ANY | own).items():
        yield name, getattr(request, name) in (None, *neutral), mend
    options = request.stream_options
    often = options is not None and bool(options.continuous_usage_stats) and not options.include_usage
    yield "stream_options.continuous_usage_stats", not often, "no usage is told: set `include_usage` as well"
    padded = options is not None and bool(options.include_obfuscation)
    yield "stream_options.include_obfuscation", not padded, "chunks are not padded: leave it out"
    if isinstance(request, ChatRequest):
        given = request.prediction  # it makes an answer come sooner where it is used, and changes none
        fits = given is None or (isinstance(given, dict) and given.get("type") == "content")
        yield "prediction", fits, "it is {'type': 'content', 'content': …}, or left out"
    for at, tool in enumerate((request.tools if isinstance(request, ChatRequest) else None) or ()):
        yield f"tools[{at}].defer_loading", not tool.defer_loading, "all tools are told at once: leave it out"
    streams = request.stream or request.stream_options is None
    yield "stream_options", streams, "these are of a stream: set `stream`, or leave them out"


def unheeded_checks(request: ChatRequest | CompletionRequest) -> Iterator[Check]:
    """Look at what means nothing to a model without another field."""
    searches = request.use_beam_search or request.length_penalty in {None, 1}
    yield "length_penalty", searches, "answers that are drawn are not ranked: set `use_beam_search`, or leave it out"
    prompt = request.prompt_logprobs is not None
    # 0 of the likeliest are wanted too
    told = prompt or (request.logprobs is not None and request.logprobs is not False)
    yield "logprob_token_ids", told or not request.logprob_token_ids, "these are told beside `logprobs`: set it as well"
    judged = prompt or bool(request.prompt_logprob_token_ids)
    fits = judged or not request.prompt_logprob_start
    yield "prompt_logprob_start", fits, "nothing of the prompt is told: set `prompt_logprobs` as well"
