"""One step while it is being planned: what is left of the budget, and the slices so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from engine.core.numbers import numbers
from engine.core.request import LEFT, Request
from schemas.steps import Arrival, Slice

MOST_TOLD = 500_000
"""Tokens that arrivals of one plan may bring: as JSON, half of the 8 MiB that a message may have."""

Planned = tuple[Request, Slice, int]
"""A request's part of a step, and the life of the request that it belongs to."""


class Draft:
    """A step under construction. Slices keep the order in which requests were given theirs."""

    def __init__(self, budget: int, most_numbers: int) -> None:
        self.budget = budget
        """Token positions that may still be computed in this step."""
        self.slices: dict[str, Planned] = {}
        self.admitted: dict[str, tuple[int, tuple[int, ...]]] = {}
        """Requests that begin in this step: positions computed and blocks held before it."""
        self.preempted: list[str] = []
        self.told = 0
        """Tokens of arrivals."""
        self._most_numbers = most_numbers
        self._numbers = 0
        """Logarithms that the result may bring."""

    def is_told_much(self, request: Request) -> bool:
        """Say whether the plan has no room for a request's tokens, beside those of others."""
        return bool(self.told) and self.told + request.bulk > MOST_TOLD

    def brings_much(self, request: Request, count: int) -> bool:
        """Say whether the result has no room for what `count` positions of a request bring, beside those of others."""
        told = _numbers(request, count) if request.wants_told else 0
        return bool(told and self._numbers) and self._numbers + told > self._most_numbers

    def admit(self, request: Request) -> None:
        """Have a request begin with this step."""
        self.admitted[request.id] = (request.computed, _table(request, len(request.blocks)))
        self.told += request.bulk

    def add(self, request: Request, count: int, blocks: tuple[int, ...]) -> None:
        """Give a request `count` positions; `blocks` are those of its table that are new."""
        assert request.id not in self.slices, f"{request.id!r} has its part of this step"
        if request.wants_told:
            self._numbers += _numbers(request, count)
        start = request.computed
        request.computed = end = start + count
        sample = end == len(request.tokens) + request.pending
        request.pending += sample
        self.budget -= count
        self.slices[request.id] = (request, Slice(request.id, start, count, blocks, sample), request.life)

    def drop(self, request: Request) -> bool:
        """Take a slice back: its request gives way to an older one. Its blocks are released with the others.

        Return whether workers know the request: it did not begin with this very step.
        """
        self.preempted.append(request.id)
        found = self.slices.pop(request.id, None)
        if found is not None:
            part = found[1]
            request.computed -= part.count
            request.pending -= part.sample
            self.budget += part.count
        return self.admitted.pop(request.id, None) is None

    def arrivals(self, running: Mapping[str, Request]) -> list[Arrival]:
        """Describe the requests that begin in this step."""
        return [_arrival(running[name], computed, blocks) for name, (computed, blocks) in self.admitted.items()]

    def all_arrivals(self, running: Iterable[Request]) -> list[Arrival]:
        """Describe all that run, as they are before this step."""
        arrivals = []
        for request in running:
            found = self.slices.get(request.id)
            fresh, computed = (len(found[1].blocks), found[1].start) if found else (0, request.computed)
            arrivals.append(_arrival(request, computed, _table(request, len(request.blocks) - fresh)))
        return arrivals


def _numbers(request: Request, count: int) -> int:
    """Count the logarithms that so many more positions of a request bring at most."""
    first = max(request.computed, request.sampling.prompt_logprob_start)
    prompt = 0 if request.outputs else max(0, min(request.computed + count, request.prompt_tokens) - first)
    return numbers(request.sampling, 1, prompt)


def _table(request: Request, blocks: int) -> tuple[int, ...]:
    """Give the first blocks of a request's table; for those left behind stands one of its own, which is not read."""
    first = next((block for block in request.blocks if block != LEFT), 0)
    return tuple([first if block == LEFT else block for block in request.blocks[:blocks]])


def _arrival(request: Request, computed: int, blocks: tuple[int, ...]) -> Arrival:
    return Arrival(
        request=request.id,
        tokens=tuple(request.tokens),
        prompt_tokens=request.prompt_tokens,
        sampling=request.sampling,
        blocks=blocks,
        computed=computed,
    )
