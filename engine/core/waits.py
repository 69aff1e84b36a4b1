"""What requests wait for, by name: nobody should have to guess why nothing moves."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from engine.config import SchedulerConfig
from engine.core.ahead import Ahead
from engine.core.memory import Memory
from engine.core.parking import Parking
from engine.core.ranked import Rules
from engine.core.request import Request
from engine.core.waiting import WaitingQueue

_TOLD = 16
"""Waiting requests that are told of one by one."""
_HOLDERS = 4


class Waits(msgspec.Struct, frozen=True):
    """Why an engine is where it is."""

    steps: tuple[int, ...]
    """Numbers of the steps under way, whose results are awaited."""
    worker: str | None
    """Who is to run them; None while no worker has come."""
    running: int
    waiting: int
    reasons: tuple[tuple[str, str], ...]
    """(request, what it waits for) of those that wait, the first of them in the order in which they are to begin, and
    of those that are parked."""
    parked: int = 0

    def chain(self, *, names: bool = True) -> str:
        """Say in one line what the first in the queue waits for, and what that waits for; or without their names."""
        parked = f", {self.parked} parked" if self.parked else ""
        parts = [f"{self.waiting} waiting, {self.running} running{parked}"]
        parts += [f"{request} waits for {reason}" for request, reason in self.reasons[:1] if names]
        if self.worker is None:
            parts.append("no worker has come")
        elif self.steps:
            named = ", ".join(map(str, self.steps))
            parts.append(f"worker {self.worker} has not answered steps {named}")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Books:
    """All that a scheduler has, to be looked at."""

    config: SchedulerConfig
    memory: Memory
    running: Mapping[str, Request]
    waiting: WaitingQueue
    parking: Parking
    steps: Collection[int]
    """Numbers of those under way."""
    worker: str | None
    """The worker that it plans for."""
    rules: Rules
    ahead: Ahead

    def waits(self) -> Waits:
        """Say what requests wait for."""
        reasons = []
        for index, request in zip(range(_TOLD), self.waiting, strict=False):
            reason = f"its turn: {index} before it" if index else self._first_reason(request)
            reasons.append((request.id, self.ahead.reason(request) or reason))
        reasons += [(request.id, self._grammar()) for _, request in zip(range(_TOLD), self.parking, strict=False)]
        counts = (len(self.running), len(self.waiting), tuple(reasons), len(self.parking))
        return Waits(tuple(self.steps), self.worker, *counts)

    def _grammar(self) -> str:
        by = "a worker to come" if self.worker is None else f"worker {self.worker}"
        return f"its grammar to be compiled by {by}"

    def _first_reason(self, request: Request) -> str:
        memory, seats = self.memory, self.config.max_running
        promised = memory.promised(self.running.values())
        lacking = memory.lacking(request, promised)
        if request.pending:
            return "the token that was under way when it gave its blocks up"
        if withheld := self.rules.withheld(request):
            return withheld
        if len(self.running) >= seats:
            return f"a seat: all {seats} are taken (max_running)"
        if lacking:
            holders = sorted(self.running.values(), key=lambda holder: len(holder.held), reverse=True)[:_HOLDERS]
            held = ", ".join(f"{holder.id} ({len(holder.held)})" for holder in holders)
            return (
                f"{lacking} more KV blocks: {memory.idle} of {memory.size} are idle, {promised} of them for "
                f"running requests to grow into; most are held by {held}"
            )
        return f"the result of step {min(self.steps)}" if self.steps else "the next step"

    def check(self, requests: Mapping[str, Request]) -> None:
        """Fail if the books do not balance.

        Args:
            requests: all that are not over.
        """
        self.memory.check(self.running.values())
        self.waiting.check()
        self.parking.check()
        queued = (request.id for request in (*self.waiting, *self.parking))
        assert set(requests) == {*self.running, *queued}
        for request in self.running.values():
            assert request.state == "running"
            assert request.settled <= request.computed <= request.length <= request.limit, request.id
