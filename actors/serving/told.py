"""What an engine's numbers mean: each token with its piece of text."""

from __future__ import annotations

from collections.abc import Sequence

from engine.text.tokenizer import Tokenizer
from schemas.answers import TokenTold
from schemas.generation import TokenLogprobs


def told(logprobs: Sequence[TokenLogprobs], tokenizer: Tokenizer) -> tuple[TokenTold, ...]:
    """Describe tokens as readers want them."""
    return tuple(_told(one, tokenizer) for one in logprobs)


def told_prompt(
    prompt: Sequence[int], logprobs: Sequence[TokenLogprobs], tokenizer: Tokenizer
) -> tuple[TokenTold, ...]:
    """Describe a prompt. Of its first tokens nothing is told: one has nothing before it, of others it is not wanted."""
    before = prompt[: len(prompt) - len(logprobs)]
    return (*(TokenTold(token, tokenizer.piece(token), None, 0) for token in before), *told(logprobs, tokenizer))


def _told(one: TokenLogprobs, tokenizer: Tokenizer) -> TokenTold:
    (token, *tops), (logprob, *values) = one.tokens, one.logprobs
    top = tuple((name, tokenizer.piece(name), value) for name, value in zip(tops, values, strict=True))
    return TokenTold(token, tokenizer.piece(token), logprob, one.rank, top)
