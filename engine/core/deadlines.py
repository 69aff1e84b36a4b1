"""When requests must be over."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

from engine.core.request import Request

_SPARE = 64


class Deadlines:
    """A heap of times. A request that is over before its time stays in it for a while, and is passed over."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []

    @property
    def next(self) -> int | None:
        """The earliest, microseconds since the Unix epoch."""
        return self._heap[0][0] if self._heap else None

    def add(self, request: Request, known: Mapping[str, Request]) -> None:
        """Remember a request's deadline, if it has one; `known` are all that are not over."""
        if not request.deadline:
            return
        heapq.heappush(self._heap, (request.deadline, request.id))
        if len(self._heap) > 2 * len(known) + _SPARE:
            self._heap = [(one.deadline, one.id) for one in known.values() if one.deadline]
            heapq.heapify(self._heap)

    def due(self, now: int, known: Mapping[str, Request]) -> Iterator[Request]:
        """Give those whose time has come, and forget it."""
        while self._heap and self._heap[0][0] <= now:
            deadline, name = heapq.heappop(self._heap)
            request = known.get(name)
            if request is not None and request.deadline == deadline:
                yield request
