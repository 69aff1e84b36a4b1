"""How many logarithms a request wants to be told: they travel over the bus, in messages that have a size."""

from __future__ import annotations

from schemas.generation import Sampling


def numbers(sampling: Sampling, outputs: int, prompt: int = 0) -> int:
    """Count the logarithms that are told of so many tokens of an answer, and of so many that are of a prompt."""
    more = 1 + len(sampling.logprob_token_ids)
    told = 0 if sampling.logprobs is None else outputs * (sampling.logprobs + more)
    return told if sampling.prompt_logprobs is None else told + prompt * (sampling.prompt_logprobs + more)
