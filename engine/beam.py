"""Beam search: the likeliest continuations, found by going on with the best few at every step. Pure.

Wu et al. 2016, "Google's Neural Machine Translation System", arXiv 1609.08144, section 7, has the length penalty in a
more elaborate form; here as everywhere since it is a power of the length. The rules of what stays in, and of which
ends count, are those that `transformers` has.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from msgspec.structs import replace

from schemas.generation import Sampling, Submit, TokenLogprobs

Scored = tuple[int, float]
"""(token, natural logarithm of its chance)."""


_HEEDED: Final = (
    *("stop_tokens", "allowed_token_ids", "structured", "structured_after", "thinking_opening", "thinking_closing"),
    "adapter",
)
"""What a search keeps to."""


@dataclass(frozen=True, slots=True)
class Beam:
    """A continuation."""

    tokens: tuple[int, ...]
    logprob: float
    """Of all its tokens together."""


@dataclass(frozen=True, slots=True)
class Found:
    """A continuation that is over."""

    tokens: tuple[int, ...]
    """The token that ended it is the last."""
    logprob: float
    score: float
    """What it is ranked by: its logarithm of chance by a power of its length."""
    finish: Literal["stop", "length"]


class BeamSearch:
    """The continuations of one prompt."""

    def __init__(
        self,
        width: int,
        most: int,
        stops: Collection[int] = (),
        length_penalty: float = 1.0,
    ) -> None:
        """Begin with nothing said.

        Args:
            width: how many continuations are gone on with, and found.
            most: tokens after which they are over.
            stops: tokens that end one.
            length_penalty: the power of a length by which a logarithm of chance is divided; above 0 it favours long
                continuations, because logarithms of chances are below 0.
        """
        self._width = width
        self._most = most
        self._stops = frozenset(stops)
        self._penalty = length_penalty
        self._found: list[Found] = []
        self.live: tuple[Beam, ...] = (Beam((), 0.0),)
        """What is gone on with; nothing once the search is over."""

    @property
    def candidates(self) -> int:
        """How many of the likeliest next tokens have to be told of each beam: some of them may end it."""
        return self._width * (1 + max(1, len(self._stops)))

    def wanted(self, given: Sampling) -> Sampling:
        """Say how one more token of each beam is asked for: whatever it is, what could have come beside it is told.

        Args:
            given: what may come at all (`allowed_token_ids`, `structured`), and what ends an answer.
        """
        told = Sampling(max_tokens=self._most, logprobs=self.candidates, searching=True)
        return replace(told, **{name: getattr(given, name) for name in _HEEDED})

    def take(self, told: Sequence[Sequence[Scored]]) -> None:
        """Go one token on.

        Args:
            told: of every live beam, in their order, its likeliest next tokens.
        """
        pairs = zip(self.live, told, strict=True)
        grown = [Beam((*beam.tokens, token), beam.logprob + logprob) for beam, best in pairs for token, logprob in best]
        # equals stay in the order of their beams
        grown.sort(key=lambda beam: -beam.logprob)
        kept: list[Beam] = []
        for rank, beam in enumerate(grown):
            if beam.tokens[-1] not in self._stops:
                kept.append(beam)
            elif rank < self._width:
                self._end(beam, "stop")
            if len(kept) == self._width:
                break
        self.live = tuple(kept)
        if len(self.live[0].tokens if self.live else ()) >= self._most:
            for beam in self.live:
                self._end(beam, "length")
            self.live = ()
        elif self._settled():
            self.live = ()

    def _end(self, beam: Beam, finish: Literal["stop", "length"]) -> None:
        score = beam.logprob / len(beam.tokens) ** self._penalty
        self._found.append(Found(beam.tokens, beam.logprob, score, finish))
        self._found.sort(key=lambda found: -found.score)
        del self._found[self._width :]

    def _settled(self) -> bool:
        """Say whether no live beam can become better than all that was found."""
        if not self.live or len(self._found) < self._width:
            return not self.live
        best = self.live[0]
        # a beam only gets less likely; a long one is divided by more
        length = self._most if self._penalty > 0 else len(best.tokens)
        return bool(self._found[-1].score >= best.logprob / length**self._penalty)

    def best(self) -> tuple[Found, ...]:
        """Give what was found, best first."""
        return tuple(self._found)


def one_more(submit: Submit, beam: Beam, sampling: Sampling) -> Submit:
    """Ask for one more token of a beam: what it is made of is output, so that a grammar holds for all of it."""
    told = (TokenLogprobs((), (), 0),) * len(beam.tokens)
    return replace(submit, output=beam.tokens, logprobs=told, sampling=sampling)
