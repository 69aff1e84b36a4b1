"""What a scheduler does not take on, and why."""

from __future__ import annotations

from engine.config import SchedulerConfig
from engine.core.memory import Memory
from engine.core.prefix_cache import TOKEN_IDS
from engine.core.waiting import WaitingQueue
from schemas.generation import Refused, Submit

MOST_NUMBERS = 200_000
"""Logarithms that one request may want: as JSON, half of the 8 MiB that a message may have."""


def refusal(submit: Submit, config: SchedulerConfig, memory: Memory, waiting: WaitingQueue) -> Refused | None:
    """Say why a request could never run, or cannot be taken now; None if it can be."""
    return _misfit(submit) or _too_long(submit, config, memory) or _overload(submit, config, waiting)


def _misfit(submit: Submit) -> Refused | None:
    if not submit.prompt or submit.sampling.max_tokens < 1:
        return _refused(submit, "give at least one prompt token and max_tokens of at least 1")
    told = _numbers_told(submit)
    if told > MOST_NUMBERS:
        message = (
            f"logprobs and prompt_logprobs may come to {told} numbers, of at most {MOST_NUMBERS}: "
            "lower them, max_tokens, or the prompt"
        )
        return _refused(submit, message)
    for name, tokens in (("prompt", submit.prompt), ("output", submit.output)):
        if tokens and not (min(tokens) in TOKEN_IDS and max(tokens) in TOKEN_IDS):
            return _refused(submit, f"{name}: token ids are from 0 to {TOKEN_IDS[-1]}")
    return None


def _numbers_told(submit: Submit) -> int:
    """Count the logarithms that a request may want."""
    sampling, more = submit.sampling, 1 + len(submit.sampling.logprob_token_ids)
    output = 0 if sampling.logprobs is None else sampling.max_tokens * (sampling.logprobs + more)
    prompt = 0 if sampling.prompt_logprobs is None else len(submit.prompt) * (sampling.prompt_logprobs + more)
    return output + prompt


def _refused(submit: Submit, message: str) -> Refused:
    return Refused(request=submit.request, reason="invalid", message=message)


def _too_long(submit: Submit, config: SchedulerConfig, memory: Memory) -> Refused | None:
    prompt = len(submit.prompt)
    needed = memory.blocks_for(min(prompt + submit.sampling.max_tokens, config.context_length))
    if prompt >= config.context_length:
        message = (
            f"the prompt has {prompt} tokens and this model's context is {config.context_length}, "
            "answer included: shorten the messages or start a new thread"
        )
    elif needed > memory.size:
        message = f"prompt and answer may need {needed} KV blocks, there are {memory.size}: lower max_tokens"
    else:
        return None
    return Refused(request=submit.request, reason="too_long", message=message)


def _overload(submit: Submit, config: SchedulerConfig, waiting: WaitingQueue) -> Refused | None:
    tokens = waiting.tokens + len(submit.prompt) + len(submit.output)
    if len(waiting) >= config.max_waiting:
        message = f"{len(waiting)} requests are waiting already: try again later"
    elif len(waiting) and tokens > config.max_waiting_tokens:
        message = (
            f"{waiting.tokens} prompt tokens are waiting already, of {config.max_waiting_tokens} that may: "
            "try again later"
        )
    else:
        return None
    return Refused(request=submit.request, reason="overloaded", message=message, retry_after_ms=config.retry_after_ms)
