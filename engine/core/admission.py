"""What a scheduler does not take on, and why."""

from __future__ import annotations

from engine.config import SchedulerConfig
from engine.core.memory import Memory
from engine.core.numbers import numbers
from engine.core.parking import Parking
from engine.core.prefix_cache import TOKEN_IDS
from engine.core.waiting import WaitingQueue
from schemas.generation import Refused, Submit


def refusal(
    submit: Submit, config: SchedulerConfig, memory: Memory, waiting: WaitingQueue, parked: Parking
) -> Refused | None:
    """Say why a request could never run, or cannot be taken now; None if it can be."""
    return (
        _misfit(submit, config)
        or _too_long(submit, config, memory)
        or _overload(submit, config, len(waiting) + len(parked), waiting.tokens + parked.tokens)
    )


def _misfit(submit: Submit, config: SchedulerConfig) -> Refused | None:
    if not submit.prompt or submit.sampling.max_tokens < 1:
        return _refused(submit, "give at least one prompt token and max_tokens of at least 1")
    room = max(1, config.context_length - len(submit.prompt))
    most = 1 if submit.sampling.searching else min(submit.sampling.max_tokens, room)
    told = numbers(submit.sampling, most, _judged(submit))
    if told > config.most_numbers:
        message = (
            f"logprobs and prompt_logprobs may come to {told} numbers, of at most {config.most_numbers}: "
            "lower them, max_tokens, or the prompt"
        )
        return _refused(submit, message)
    for name, tokens in (("prompt", submit.prompt), ("output", submit.output)):
        if tokens and not (min(tokens) in TOKEN_IDS and max(tokens) in TOKEN_IDS):
            return _refused(submit, f"{name}: token ids are from 0 to {TOKEN_IDS[-1]}")
    return None


def _judged(submit: Submit) -> int:
    """Count the positions of a prompt of which something may be told."""
    return max(0, len(submit.prompt) - submit.sampling.prompt_logprob_start)


def _refused(submit: Submit, message: str) -> Refused:
    return Refused(request=submit.request, reason="invalid", message=message)


def _too_long(submit: Submit, config: SchedulerConfig, memory: Memory) -> Refused | None:
    prompt = len(submit.prompt)
    needed = memory.tables.wanted(min(prompt + submit.sampling.max_tokens, config.context_length))
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


def _overload(submit: Submit, config: SchedulerConfig, waiting: int, tokens: int) -> Refused | None:
    more = tokens + len(submit.prompt) + len(submit.output)
    if waiting >= config.max_waiting:
        message = f"{waiting} requests are waiting already: try again later"
    elif waiting and more > config.max_waiting_tokens:
        message = (
            f"{tokens} prompt tokens are waiting already, of {config.max_waiting_tokens} that may: try again later"
        )
    else:
        return None
    return Refused(request=submit.request, reason="overloaded", message=message, retry_after_ms=config.retry_after_ms)
