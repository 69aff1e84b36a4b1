"""Several answers to one prompt: each a generation of its own, all of them one outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from msgspec.structs import replace

from actors.errors import CallFailed
from actors.models.provider import ModelAnswer, ModelCall, ModelProvider, Piece
from actors.models.together import together
from schemas.answers import Alternative
from schemas.messages import Usage

_AT_ONCE: Final = 256
"""Answers that are asked for at the same time: an engine's queue has room for some more than one call's."""

OnChoice = Callable[[int, Piece], Awaitable[None]]
"""Called with (which answer, what is new of it)."""


async def answers(provider: ModelProvider, call: ModelCall, on_text: OnChoice) -> list[ModelAnswer]:
    """Ask for `call.n` answers, many at once; each draws from a seed of its own, the first from the one given.

    Where the likeliest are wanted they are searched for instead, and told when they are found.

    Raises:
        CallFailed: One of them came to nothing; the others are stopped.
    """
    if call.length_penalty is not None:
        return await provider.search(call)
    calls = [_choice(call, index) for index in range(call.n)]
    seats = asyncio.Semaphore(_AT_ONCE)
    try:
        if len(calls) == 1:
            return [await _ask(provider, calls[0], on_text, seats)]  # a task of its own would begin it later
        return await together(_ask(provider, one, on_text, seats) for one in calls)
    except CallFailed:
        for one in calls:
            await provider.abort(one.request)
        raise


def alternative(answer: ModelAnswer) -> Alternative:
    """Give an answer as one beside another."""
    told = (answer.logprobs, answer.token_ids, answer.reasoning, answer.sampled, answer.cut_off, answer.stopped_at)
    return Alternative(answer.text, answer.finish_reason, answer.tool_calls, *told)


def total(given: Sequence[ModelAnswer]) -> Usage:
    """Sum what answers to one prompt cost; the prompt counts once, as it was asked for once."""
    first, *others = [answer.usage for answer in given]
    used = first
    for usage in others:
        used += replace(usage, prompt_tokens=0, cached_tokens=0)
    return used


def total_cost(given: Sequence[ModelAnswer]) -> float | None:
    """Sum what answers to one prompt cost; None where that is not known of one of them."""
    costs = [answer.cost for answer in given if answer.cost is not None]
    return sum(costs) if len(costs) == len(given) else None


def _choice(call: ModelCall, index: int) -> ModelCall:
    seed = (call.sampling.seed + index + (1 << 63)) % (1 << 64) - (1 << 63)
    sampling = replace(call.sampling, seed=seed)
    if index:
        sampling = replace(sampling, prompt_logprobs=None, prompt_logprob_token_ids=())  # the prompt is told of once
    return replace(call, choice=index, n=1, sampling=sampling)


async def _ask(provider: ModelProvider, call: ModelCall, on_text: OnChoice, seats: asyncio.Semaphore) -> ModelAnswer:
    async def hear(piece: Piece, /) -> None:
        await on_text(call.choice, piece)

    async with seats:
        return await provider.call(call, hear)
