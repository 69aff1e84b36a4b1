"""One step while it is being planned: what is left of the budget, and the slices so far."""

from __future__ import annotations

from engine.core.request import Request
from schemas.steps import Slice

Planned = tuple[Request, Slice, int]
"""A request's part of a step, and the life of the request that it belongs to."""


class Draft:
    """A step under construction. Slices keep the order in which requests were given theirs."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        """Token positions that may still be computed in this step."""
        self.slices: dict[str, Planned] = {}
        self.admitted: dict[str, tuple[int, tuple[int, ...]]] = {}
        """Requests that begin in this step: positions computed and blocks held before it."""
        self.preempted: list[str] = []

    def add(self, request: Request, count: int, blocks: tuple[int, ...]) -> None:
        """Give a request `count` positions; `blocks` are those of its table that are new."""
        start = request.computed
        request.computed = end = start + count
        sample = end == len(request.tokens) + request.pending
        request.pending += sample
        self.budget -= count
        self.slices[request.id] = (request, Slice(request.id, start, count, blocks, sample), request.life)

    def drop(self, request: Request) -> None:
        """Take a slice back: its request gives way to an older one. Its blocks are released with the others."""
        found = self.slices.pop(request.id, None)
        if found is not None:
            part = found[1]
            request.computed -= part.count
            request.pending -= part.sample
            self.budget += part.count
