"""The policies that go by rank alone: whoever came first, or whoever is most urgent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Protocol

from engine.core.memory import Memory
from engine.core.request import Request
from schemas.generation import Submit
from schemas.programs import Decision, ProgramNote


class Rules(Protocol):
    """What a scheduler asks of its policy, and tells it. Pure: what it says depends on what it was told."""

    @property
    def is_changed(self) -> bool:
        """Whether the making of this plan changed something, so it must be recorded though no plan comes of it."""

    def renew(self, memory: Memory) -> None:
        """There is a new memory, with nothing in it."""

    def submitted(self, submit: Submit, request: Request, now: int) -> int:
        """Give a new request its rank; return the time that must be recorded of it, 0 for none."""

    def note(self, note: ProgramNote, now: int) -> bool:
        """Hear of a program between its turns; say whether that must be recorded."""

    def ends(self, request: Request) -> None:
        """A request is about to end, and to give its blocks up."""

    def begin_plan(self, now: int) -> None:
        """A plan is being made."""

    def in_turn(self, running: Collection[Request]) -> Sequence[Request]:
        """List running requests in the order in which they get their parts of a step."""

    def first(self, waiting: Iterable[Request], running: int) -> Request | None:
        """Say which of waiting requests, in their order, is to begin next; None if none may."""

    def withheld(self, request: Request) -> str:
        """Say what a waiting request waits for before it may begin at all; empty if it may."""

    def begun(self, request: Request) -> None:
        """A request has begun, with the blocks in which its beginning was found."""

    def gives_way(self, request: Request) -> None:
        """A running request is about to give its blocks up, and to wait again."""

    def keep_plan(self) -> None:
        """The making of the plan is recorded."""

    def take(self) -> tuple[Decision, ...]:
        """The plan is made; give what was decided since the one before."""

    def check(self, requests: Mapping[str, Request]) -> None:
        """Fail if its books do not balance; `requests` are all that are not over."""


class Ranked:
    """`fcfs` and `priority`."""

    is_changed = False

    def __init__(self, *, by_priority: bool) -> None:
        self._by_priority = by_priority

    def renew(self, memory: Memory) -> None:
        """Nothing is remembered of it."""

    def submitted(self, submit: Submit, request: Request, now: int) -> int:
        """Rank by arrival, or by priority first."""
        if self._by_priority:
            request.rank = (submit.priority, request.rank[1])
        return 0

    def note(self, note: ProgramNote, now: int) -> bool:
        """Nothing depends on it."""
        return False

    def ends(self, request: Request) -> None:
        """Nothing is remembered of it."""

    def begin_plan(self, now: int) -> None:
        """Nothing depends on the time."""

    def in_turn(self, running: Collection[Request]) -> Sequence[Request]:
        """As they began, or the most urgent first."""
        return sorted(running, key=attrgetter("rank")) if self._by_priority else list(running)

    def first(self, waiting: Iterable[Request], running: int) -> Request | None:
        """The first in rank."""
        return next(iter(waiting), None)

    def withheld(self, request: Request) -> str:
        """None is."""
        return ""

    def begun(self, request: Request) -> None:
        """Nothing follows."""

    def gives_way(self, request: Request) -> None:
        """Nothing follows."""

    def keep_plan(self) -> None:
        """Nothing is remembered of it."""

    def take(self) -> tuple[Decision, ...]:
        """Nothing is decided about programs."""
        return ()

    def check(self, requests: Mapping[str, Request]) -> None:
        """There are none."""
