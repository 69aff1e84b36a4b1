"""Requests that wait for their grammars, and which grammars the worker has.

A request with a grammar cannot begin before a worker has compiled it, which takes from microseconds to seconds. It is
parked meanwhile: in no queue, so that others go on as if it were not there. The next plan asks the worker for the
grammar, and the answer frees all who wait for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from engine.core.request import Request
from engine.core.waiting import WaitingQueue
from schemas.steps import Prepare, Prepared
from schemas.structured import Structured

MOST_READY = 128
"""Grammars that the worker is taken to remember, the latest: fewer than it does, so that it has nothing to compile
while a step waits."""
MOST_ASKED = 1 << 19
"""Characters of grammars that one plan asks for, if it is more than one: a message holds 8 MiB."""


class Parking:
    """Parked requests, by the key of their grammar."""

    def __init__(self) -> None:
        self._parked: dict[str, dict[str, Request]] = {}
        self._unasked: dict[str, Structured] = {}
        self._ready: OrderedDict[str, None] = OrderedDict()
        self._count = 0
        self.tokens = 0
        """Of those that are parked."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Request]:
        for requests in self._parked.values():
            yield from requests.values()

    @property
    def asks(self) -> bool:
        """Whether the next plan has something to ask for."""
        return bool(self._unasked)

    def place(self, request: Request, waiting: WaitingQueue) -> None:
        """Let a request wait for its turn, or for its grammar first."""
        if not request.grammar or request.grammar in self._ready:
            self._touch(request.grammar)
            waiting.add(request)
            return
        request.move("parked")
        if request.grammar not in self._parked:
            self._parked[request.grammar] = {}
            self._unasked[request.grammar] = _structured(request)
        self._parked[request.grammar][request.id] = request
        self._count += 1
        self.tokens += len(request.tokens)

    def remove(self, request: Request) -> None:
        """Take out one that waits no longer; a grammar that nobody waits for is asked for no more."""
        same = self._parked[request.grammar]
        del same[request.id]
        self._count -= 1
        self.tokens -= len(request.tokens)
        if not same:
            del self._parked[request.grammar]
            self._unasked.pop(request.grammar, None)

    def answer(self, prepared: Prepared, waiting: WaitingQueue) -> list[Request]:
        """Let those wait for their turn whose grammar is ready now; list those whose grammar is none."""
        found = list(self._parked.get(prepared.key, {}).values())
        if prepared.problem:
            for request in found:
                request.problem = prepared.problem
            return found
        self._ready[prepared.key] = None
        self._touch(prepared.key)
        if len(self._ready) > MOST_READY:
            self._ready.popitem(last=False)
        for request in found:
            self.remove(request)
            request.move("waiting")
            waiting.add(request)
        return []

    def _touch(self, key: str) -> None:
        if key in self._ready:
            self._ready.move_to_end(key)

    def renew(self, waiting: WaitingQueue) -> None:
        """There is a new worker, which has no grammar: all who wait for their turn wait for theirs first."""
        self._ready.clear()
        for request in [request for request in waiting if request.grammar]:
            waiting.remove(request)
            self.place(request, waiting)

    def ask_again(self) -> None:
        """Ask for all that are waited for: what was asked before may have been lost."""
        for key, requests in self._parked.items():
            self._unasked[key] = _structured(next(iter(requests.values())))

    def ask(self) -> tuple[Prepare, ...]:
        """Give what the next plan asks for, as much as fits."""
        asked, size = list[Prepare](), 0
        for key, structured in self._unasked.items():
            size += structured.size
            if asked and size > MOST_ASKED:
                break
            asked.append(Prepare(key, structured))
        for prepare in asked:
            del self._unasked[prepare.key]
        return tuple(asked)

    def check(self) -> None:
        """Fail if the books do not balance."""
        requests = list(self)
        assert self._count == len(requests)
        assert self.tokens == sum(len(request.tokens) for request in requests)
        assert all(request.state == "parked" and not request.blocks and not request.pending for request in requests)
        assert self._unasked.keys() <= self._parked.keys()
        assert not self._parked.keys() & self._ready.keys(), "somebody waits for a grammar that is ready"


def _structured(request: Request) -> Structured:
    structured = request.sampling.structured
    assert structured is not None, f"{request.id!r} has no grammar to wait for"
    return structured
