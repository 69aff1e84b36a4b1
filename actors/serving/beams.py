"""The likeliest answers to a prompt: a search that asks the engine for one token of every beam at each step.

The prefix cache keeps what beams have in common, so a step computes little more than their last tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from msgspec.structs import replace

from actors.models.together import together
from engine.beam import BeamSearch, Found, Scored, one_more
from schemas.generation import Submit, TokenLogprobs

Next = Callable[[Submit], Coroutine[Any, Any, TokenLogprobs]]
"""Has the engine compute one more token of a request, and gives what it made of it."""


async def search(submit: Submit, width: int, length_penalty: float, context_length: int, ask: Next) -> list[Found]:
    """Search for the likeliest answers, best first.

    Args:
        submit: the prompt, and with it what ends an answer and when.
        width: how many answers are gone on with, and found.
        length_penalty: see `BeamSearch`.
        context_length: the engine's.
        ask: what asks it.
    """
    sampling, room = submit.sampling, context_length - len(submit.prompt)
    found, step = BeamSearch(width, max(1, min(sampling.max_tokens, room)), sampling.stop_tokens, length_penalty), 0
    wanted = found.wanted(sampling)
    while found.live:
        asked = [
            replace(one_more(submit, beam, wanted), request=f"{submit.request}.{step}.{index}")
            for index, beam in enumerate(found.live)
        ]
        found.take([_likeliest(told) for told in await together(ask(one) for one in asked)])
        step += 1
    return list(found.best())


def _likeliest(told: TokenLogprobs) -> list[Scored]:
    """List what could have come, the likeliest first, without the token that did."""
    return list(zip(told.tokens, told.logprobs, strict=True))[1:]
