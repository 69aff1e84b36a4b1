"""What step records hold of one request: its prompt, how it is drawn, and every token that was drawn for it."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple, TypeVar

from schemas.answers import Sampled
from schemas.generation import Sampling, TokenLogprobs
from schemas.steps import StepPlan, StepResult

T = TypeVar("T")


def sampled(prompt: Iterable[int], tokens: Sequence[int]) -> Sampled:
    """Name an answer by its tokens, and those of the prompt."""
    hashed = blake2b(array("q", prompt).tobytes(), digest_size=16)
    hashed.update(array("q", tokens).tobytes())
    return Sampled(len(tokens), hashed.hexdigest())


class Place(NamedTuple):
    """A step of a scheduler's run."""

    epoch: str
    n: int


class Drawn(NamedTuple):
    """A token as a record has it."""

    token: int
    place: Place
    """The step that drew it, or one that told the worker of it afresh."""


class Judged(NamedTuple):
    """What was told of a position of prompt or answer."""

    told: TokenLogprobs
    place: Place


class Transcript:
    """One request, as far as it was followed. A record may say a thing more than once: all of it is kept."""

    def __init__(self, request: str) -> None:
        self.request = request
        self.prompt: tuple[int, ...] | None = None
        """None as long as no step tells of it."""
        self.sampling = Sampling()
        self.given: tuple[int, ...] = ()
        """What a step of a search goes on from: tokens of the answer that were drawn for others."""
        self.drawn: defaultdict[int, list[Drawn]] = defaultdict(list)
        """By index in the answer."""
        self.judged: defaultdict[int, list[Judged]] = defaultdict(list)
        """By position, those of the prompt too; of an answer where that was asked for."""
        self.workers: list[str] = []
        """Who drew, in the order in which they first did."""
        self.failed: str | None = None
        """What a worker said of why it could not be computed."""
        self.preemptions = 0
        self.contradiction: Place | None = None
        """The first step that tells of another prompt than the steps before, or of another way to draw."""

    @property
    def count(self) -> int:
        """Tokens of the answer, up to the last one that is recorded."""
        return 1 + max(self.drawn, default=-1)

    @property
    def missing(self) -> tuple[int, ...]:
        """Indices of tokens that no record has, before the last one that one has."""
        return tuple(index for index in range(self.count) if index not in self.drawn)

    def holds(self, vouched: Sampled) -> bool:
        """Say whether the log means the tokens that are recorded here first; False too where some are missing."""
        tokens = [self.drawn[index][0].token for index in range(vouched.count) if index in self.drawn]
        return sampled(self.prompt or (), tokens) == vouched

    def follow(self, plan: StepPlan, results: Iterable[StepResult]) -> None:
        """Take in a step, in their order; steps without the request may be left out."""
        place = Place(plan.epoch, plan.n)
        self.preemptions += self.request in plan.preempted
        for arrival in plan.arrivals:
            if arrival.request == self.request:
                self._arrive(place, arrival.tokens, arrival.prompt_tokens, arrival.sampling)
        end = next((part.start + part.count for part in plan.slices if part.request == self.request), None)
        if end is None:
            return
        for result in results:
            self._hear(place, end, result)

    def _arrive(self, place: Place, tokens: Sequence[int], prompt_tokens: int, sampling: Sampling) -> None:
        prompt = tuple(tokens[:prompt_tokens])
        if self.prompt is None:
            self.prompt, self.sampling = prompt, sampling
            self.given = tuple(tokens[prompt_tokens:]) if sampling.searching else ()
        elif (prompt, sampling) != (self.prompt, self.sampling) and self.contradiction is None:
            self.contradiction = place
        for index, token in enumerate(tokens[prompt_tokens:]):
            self.drawn[index].append(Drawn(token, place))

    def _hear(self, place: Place, end: int, result: StepResult) -> None:
        """Take in what a worker made of the positions before `end`."""
        if result.worker not in self.workers:
            self.workers.append(result.worker)
        self.failed = next(self._mine(result.errors), self.failed)
        prompt = len(self.prompt or ())
        for token in self._mine(result.tokens):
            self.drawn[end - prompt].append(Drawn(token, place))
        for told in self._mine(result.logprobs):
            self.judged[end].append(Judged(told, place))
        for request, position, several in result.prompt_logprobs:
            if request == self.request:
                for at, one in enumerate(several, start=position):
                    self.judged[at].append(Judged(one, place))

    def _mine(self, pairs: Iterable[tuple[str, T]]) -> Iterator[T]:
        return (value for request, value in pairs if request == self.request)
