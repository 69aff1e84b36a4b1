"""How many logarithms a request wants to be told: they travel over the bus, in messages that have a size."""

from __future__ import annotations

from typing import Final

from schemas.generation import Sampling

MOST_NUMBERS: Final = 200_000
"""Logarithms that a request may want, and that a step may bring: as JSON, half of the 8 MiB that a message may have."""


def numbers(sampling: Sampling, outputs: int, prompt: int = 0) -> int:
    """Count the logarithms that are told of so many tokens of an answer, and of a prompt."""
    more = 1 + len(sampling.logprob_token_ids)
    told = 0 if sampling.logprobs is None else outputs * (sampling.logprobs + more)
    return told if sampling.prompt_logprobs is None else told + prompt * (sampling.prompt_logprobs + more)
