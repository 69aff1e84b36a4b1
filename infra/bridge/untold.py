"""The tokens of an answer that its client was not told of yet."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.answers import Alternative, TokenTold
from schemas.live import Delta


class Untold:
    """What of one answer's tokens waits for the chunk that it goes out with: each is heard once and given once."""

    def __init__(self) -> None:
        self._logprobs: list[TokenTold] = []
        self._token_ids: list[int] = []
        self._heard = self._named = 0
        """Of how many there were logprobs, and ids, so far."""

    @property
    def empty(self) -> bool:
        """Whether none waits."""
        return not (self._logprobs or self._token_ids)

    def hear(self, delta: Delta) -> None:
        """Take those that come with a piece of the answer."""
        self._take(delta.logprobs, delta.token_ids)

    def complete(self, answer: Alternative) -> None:
        """Take those that came with none."""
        self._take(answer.logprobs[self._heard :], answer.token_ids[self._named :])

    def prepend(self, logprobs: Sequence[TokenTold]) -> None:
        """Put the tokens of a prompt before the answer's."""
        self._logprobs[:0] = logprobs

    def logprobs(self) -> list[TokenTold]:
        """Give what the model made of them."""
        given, self._logprobs = self._logprobs, []
        return given

    def token_ids(self) -> list[int]:
        """Give their ids."""
        given, self._token_ids = self._token_ids, []
        return given

    def _take(self, logprobs: Sequence[TokenTold], token_ids: Sequence[int]) -> None:
        self._logprobs += logprobs
        self._token_ids += token_ids
        self._heard += len(logprobs)
        self._named += len(token_ids)
