"""How many logarithms a request wants to be told: they travel over the bus, in messages that have a size."""

from __future__ import annotations

from schemas.generation import Sampling


def numbers(sampling: Sampling, outputs: int, prompt: int = 0) -> int:
    """Count the logarithms that are told of so many tokens of an answer, and of so many that are of a prompt."""
    told = 0 if sampling.logprobs is None else outputs * (sampling.logprobs + 1 + len(sampling.logprob_token_ids))
    if sampling.prompt_logprobs is None or not prompt:
        return told
    return told + prompt * (sampling.prompt_logprobs + 1 + _widest(sampling))


def candidates(sampling: Sampling, position: int) -> tuple[int, ...]:
    """Name the tokens that are told beside the likeliest of a position of the prompt."""
    given = sampling.prompt_logprob_token_ids
    if not given:
        return sampling.logprob_token_ids
    if isinstance(given[0], int):
        return tuple(one for one in given if isinstance(one, int))
    at = position - 1 - sampling.prompt_logprob_start
    one = given[at] if 0 <= at < len(given) else ()
    return one if isinstance(one, tuple) else ()


def _widest(sampling: Sampling) -> int:
    given = sampling.prompt_logprob_token_ids
    lists = [len(one) for one in given if isinstance(one, tuple)]
    return max(lists) if lists else len(given or sampling.logprob_token_ids)
