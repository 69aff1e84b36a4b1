"""Who waits because another request is just computing what both begin with.

The prefix cache finds what is computed. Of requests that come at once behind one long beginning each would compute it,
so all but the first wait until it is there, if that saves enough. A request waits only for such as rank before it, and
only while they get on: each of them ends, so nobody waits for ever, and when one gives way, fails or is aborted the
next in rank is the first.

What it says depends on the scheduler's books as they are when a plan is made, and on nothing from before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import NamedTuple

from engine.config import SchedulerConfig
from engine.core.memory import Memory
from engine.core.ranked import Rules
from engine.core.request import Request
from engine.core.step import Draft
from engine.core.waiting import WaitingQueue


class Awaited(NamedTuple):
    """What a request waits for."""

    other: Request
    rows: int
    """Rows of the beginning of both that are worth waiting for."""


class Ahead:
    """Knows which running requests compute their prompts, and who waits for them."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        self._least = -(-config.least_shared // config.block_size)
        self._computing: dict[str, Request] = {}
        """Of running requests, those that may have rows to compute which can be found then, and some more."""
        self._awaited: dict[str, Awaited] = {}
        """As of the last plan that looked who may begin; told, and not gone by."""

    def begun(self, request: Request) -> None:
        """A request begins to compute its tokens."""
        if len(request.tokens) // self._config.block_size - request.entered >= self._least:
            self._computing[request.id] = request

    def turns(self, memory: Memory, draft: Draft) -> Turns:
        """Look who may begin in a step."""
        size = self._config.block_size
        self._computing = {
            name: request
            for name, request in self._computing.items()
            if request.state == "running" and request.entered < len(request.tokens) // size
        }
        self._awaited = {}
        return Turns(self._config, self._computing, self._awaited, memory, draft)

    def reason(self, request: Request) -> str:
        """Say what a waiting request waits for before it may begin; empty if it is for nothing of another's."""
        awaited = self._awaited.get(request.id)
        if awaited is None or awaited.other.state == "finished" or awaited.other.entered >= awaited.rows:
            return ""
        tokens = awaited.rows * self._config.block_size
        return f"request {awaited.other.id} to compute {tokens} tokens that both begin with"


class Turns:
    """Whose turn it is to begin in one step."""

    def __init__(
        self,
        config: SchedulerConfig,
        computing: Mapping[str, Request],
        awaited: dict[str, Awaited],
        memory: Memory,
        draft: Draft,
    ) -> None:
        """Look who computes what.

        Args:
            config: the limits.
            computing: running requests of which something can be found later; those that begin are added to them.
            awaited: who waits for whom; those that have to are added to it.
            memory: says what can be found already.
            draft: the step.
        """
        self._size, self._seats = config.block_size, config.max_running
        self._least_tokens = config.least_shared
        self._least = -(-config.least_shared // config.block_size)
        self._computing, self._awaited = computing, awaited
        self._memory, self._draft = memory, draft
        self._held = list[Request]()
        self._leading = 0
        """How many of them nobody is before who may begin."""
        self.reserved = 0
        """Blocks for those that have to wait: nobody who begins before them takes those."""

    def next(self, rules: Rules, waiting: WaitingQueue, running: int) -> Request | None:
        """Name the next to begin; None if none may, or if all seats are taken or those of requests before it."""
        while not self._held or running + len(self._held) < self._seats:
            request = rules.first(self._free(waiting) if self._held else waiting, running)
            if request is None or not self._holds(request):
                return request
            self._leading += waiting.ahead_of(request) == self._leading
        return None

    def _free(self, waiting: WaitingQueue) -> Iterator[Request]:
        return (request for request in islice(waiting, self._leading, None) if request.id not in self._awaited)

    def _holds(self, request: Request) -> bool:
        """Say whether a request has to wait for another one, and note that."""
        if self._rows(request) < self._least or not (self._computing or self._held):
            return False
        for other in chain(self._computing.values(), self._held):
            rows = self._worth(request, other) if other.rank < request.rank else 0
            if rows and (other.id in self._awaited or self._gets_on(other, rows)):
                self._awaited[request.id] = Awaited(other, rows)
                self._held.append(request)
                self.reserved += self._memory.tables.wanted(len(request.tokens), rows)
                return True
        return False

    def _rows(self, request: Request) -> int:
        """Count the rows of a request that may be found."""
        return (len(request.findable) - 1) // self._size

    def _gets_on(self, other: Request, rows: int) -> bool:
        """Say whether a running request has so many rows under way, or a part of this step to come to them."""
        return other.computed >= rows * self._size or other.id in self._draft.slices

    def _worth(self, request: Request, other: Request) -> int:
        """Count the rows, those there are already included, that both begin with and that a request does well to wait
        for: they are half of what it has to compute, or more. 0 if there are too few.
        """
        most = min(self._rows(request), len(other.tokens) // self._size)
        if most - other.entered < self._least or not self._same(request, other, 1):
            return 0
        cache, known = self._memory.cache, other.entered
        if not self._same(request, other, known + 1) or (known and not cache.knows(request.keys[known])):
            return 0  # what came before is lost: with the rest of it nothing could be begun
        if cache.knows(request.keys[known + 1]):
            known = len(cache.match(request.keys, request.findable)) // self._memory.tables.groups
        lacking = len(request.tokens) - known * self._size
        rows = known + -(-max(self._least_tokens, -(-lacking // 2)) // self._size)
        return rows if rows <= most and self._same(request, other, rows) else 0

    def _same(self, request: Request, other: Request, rows: int) -> bool:
        """Say whether two requests of one tenant, and with one salt, begin with the same so many rows."""
        if request.keys[0] != other.keys[0]:
            return False
        extend = self._memory.cache.extend
        extend(request.keys, request.tokens, rows)
        extend(other.keys, other.tokens, rows)
        return request.keys[rows] == other.keys[rows]
