"""Requests that wait to begin, in the order in which they are to."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from engine.core.request import Rank, Request


class WaitingQueue:
    """Sorted by rank: by arrival, or by priority first. One that gave its blocks up comes back to its old place."""

    def __init__(self) -> None:
        self._requests: list[Request] = []
        self._counted: dict[str, int] = {}
        self.tokens = 0
        """Positions that those in it must compute before they sample, cached prefixes included."""

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    @property
    def first(self) -> Request:
        """The next to begin."""
        return self._requests[0]

    def add(self, request: Request) -> None:
        """Put a request in its place."""
        insort(self._requests, request, key=_rank)
        self._counted[request.id] = len(request.tokens)
        self.tokens += len(request.tokens)

    def remove(self, request: Request) -> None:
        """Take a request out."""
        del self._requests[self.ahead_of(request)]
        self.tokens -= self._counted.pop(request.id)

    def ahead_of(self, request: Request) -> int:
        """Count those that begin before it."""
        index = bisect_left(self._requests, request.rank, key=_rank)
        assert self._requests[index] is request, f"{request.id!r} does not wait"
        return index

    def check(self) -> None:
        """Fail if the order or the counts are wrong."""
        ranks = [request.rank for request in self._requests]
        assert ranks == sorted(set(ranks))
        assert self.tokens == sum(self._counted.values())
        assert all(request.state == "waiting" and not request.blocks for request in self._requests)
        assert self._counted.keys() == {request.id for request in self._requests}


def _rank(request: Request) -> Rank:
    return request.rank
