"""What an engine's numbers mean: each token with its piece of text."""

from __future__ import annotations

from collections.abc import Sequence

from engine.core.numbers import numbers
from engine.text.tokenizer import Tokenizer
from schemas.answers import TokenTold
from schemas.generation import Sampling, TokenLogprobs


class Telling:
    """What is told of one answer's tokens: what the model made of them, their ids, both or neither."""

    def __init__(
        self, tokenizer: Tokenizer, sampling: Sampling, logprobs: Sequence[TokenLogprobs], token_ids: Sequence[int]
    ) -> None:
        """Begin; `logprobs` and `token_ids` may grow. What is not to be told is empty."""
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._token_ids = token_ids
        self._told: list[TokenTold] = []
        self.width = numbers(sampling, 1)
        """Logarithms of one token."""

    def between(self, first: int, end: int) -> tuple[tuple[TokenTold, ...], tuple[int, ...]]:
        """Tell of some tokens."""
        self._told += _described(self._logprobs[len(self._told) : end], self._tokenizer)
        return tuple(self._told[first:end]), tuple(self._token_ids[first:end])


def told_prompt(
    prompt: Sequence[int], logprobs: Sequence[TokenLogprobs], tokenizer: Tokenizer
) -> tuple[TokenTold, ...]:
    """Describe a prompt. Of its first tokens nothing is told: one has nothing before it, of others it is not wanted."""
    before = prompt[: len(prompt) - len(logprobs)]
    first = (TokenTold(token, tokenizer.piece(token), None, 0) for token in before)
    return (*first, *_described(logprobs, tokenizer))


def _described(logprobs: Sequence[TokenLogprobs], tokenizer: Tokenizer) -> list[TokenTold]:
    """Describe tokens as readers want them."""
    return [_told(one, tokenizer) for one in logprobs]


def _told(one: TokenLogprobs, tokenizer: Tokenizer) -> TokenTold:
    (token, *tops), (logprob, *values) = one.tokens, one.logprobs
    top = tuple((name, tokenizer.piece(name), value) for name, value in zip(tops, values, strict=True))
    return TokenTold(token, tokenizer.piece(token), logprob, one.rank, top)
