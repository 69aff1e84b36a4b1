"""Programs as the engine knows them: what each has had, and what it waits for.

A program is a sequence of turns, each a request whose prompt is the history so far. All that is known comes from events
with times: a turn came, it ended, a tool was called, it returned, the program is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from engine.core.expectations import Expectations
from schemas.programs import PERSON

_MOST_CALLS: Final = 256
"""Calls of a program that are waited for at once; clients name as many as they like."""
_UNTOLD: Final = ""
"""The kind of the wait of a program that does not say what it waits for."""


class Program:
    """One of them."""

    __slots__ = (
        "admitted",
        "agent",
        "attained",
        "calls",
        "inferred",
        "length",
        "name",
        "over",
        "private",
        "promoted",
        "queued",
        "rank",
        "requests",
        "returned",
        "running",
        "since",
        "spent",
        "table",
        "turns",
    )

    def __init__(self, name: str, agent: str, rank: tuple[int, int], *, inferred: bool) -> None:
        self.name = name
        self.agent = agent
        """Its kind: programs of a kind grow alike."""
        self.rank = rank
        """Priority and arrival: the lower, the sooner it goes on, and the later it gives way."""
        self.inferred = inferred
        """Whether it was found by what its prompts begin with, as nobody said whose they are."""
        self.admitted = False
        """Whether its turns may begin."""
        self.promoted = False
        """Whether it was admitted for the time that it had waited, and not because there was room."""
        self.queued = 0
        """When it began to wait for admission."""
        self.requests: set[str] = set()
        """Its turns that are not over; several if it asks for several answers at once."""
        self.running = 0
        """How many of them hold blocks."""
        self.calls: dict[str, tuple[str, int]] = {}
        """Tools that it waits for: their kinds, and when they were called."""
        self.over = False
        """Whether it ends with those of its turns that are here."""
        self.since = 0
        """When its last turn ended."""
        self.returned = 0
        """When the last of its tools returned; 0 if it was not told of one since its last turn."""
        self.length = 0
        """Tokens of its context, as of its last turn."""
        self.turns = 0
        self.attained = 0
        """Tokens that were sampled for it."""
        self.table: dict[int, None] = {}
        """Blocks that held its context when its last turn ended, in order."""
        self.private = 0
        """How many of them no other program has."""
        self.spent = False
        """Whether those are the first to be used for others."""

    @property
    def is_awaited(self) -> bool:
        """Whether it is known to go on: a turn of it is here, or a tool of it runs, or returned."""
        if self.requests or self.returned:
            return True
        return bool(self.calls) and all(tool != PERSON for tool, _ in self.calls.values())


class Programs:
    """A fold of events. It decides nothing."""

    def __init__(self) -> None:
        self.learned = Expectations()
        self._programs: dict[str, Program] = {}
        self._arrived = 0

    def __len__(self) -> int:
        return len(self._programs)

    def __iter__(self) -> Iterator[Program]:
        return iter(self._programs.values())

    def find(self, name: str) -> Program | None:
        """Find one by its name."""
        return self._programs.get(name)

    # events

    def came(self, name: str, agent: str, priority: int, *, inferred: bool) -> Program:
        """A program is heard of, for the first time or again."""
        found = self._programs.pop(name, None)
        if found is None:
            self._arrived += 1
            found = Program(name, agent, (priority, self._arrived), inferred=inferred)
        self._programs[name] = found  # the last heard of is the last to be forgotten
        return found

    def turn_came(self, program: Program, request: str, length: int, now: int) -> None:
        """It asks: whatever it waited for is over."""
        if not program.requests:
            self._waited(program, now)
            program.queued = now
            if program.turns:
                self.learned.came_back(program.agent)
            if length < program.length:
                program.length = length  # its history was made shorter
        self._reached(program, length)
        program.requests.add(request)
        program.over = False

    def turn_ended(self, program: Program, request: str, length: int, outputs: int, now: int) -> None:
        """One of its turns is over."""
        program.requests.discard(request)
        program.turns += 1
        program.attained += outputs
        program.since, program.returned = now, 0
        self._reached(program, length)
        if not program.requests:
            self.learned.left(program.agent)

    def tool_began(self, program: Program, call: str, tool: str, now: int) -> None:
        """It waits for a tool; or for a person, and its context grows no more for now."""
        if len(program.calls) >= _MOST_CALLS:
            return  # it waits, whatever else it waits for
        program.calls[call] = (tool, now)
        program.returned = 0
        if tool == PERSON:
            self.learned.came_to(program.agent, program.length)

    def tool_ended(self, program: Program, call: str, now: int) -> None:
        """A tool returned."""
        found = program.calls.pop(call, None)
        if found is not None:
            self.learned.waited(found[0], now - found[1])
        if not program.calls:
            program.returned = now

    def ended(self, program: Program) -> None:
        """It is over."""
        self.learned.came_to(program.agent, program.length)
        self._programs.pop(program.name, None)

    def gone(self, program: Program) -> None:
        """It is hardly expected to ask again: unless it is known to, this is how far it went."""
        if not program.is_awaited and not program.calls:
            self.learned.came_to(program.agent, program.length)

    def forget(self, program: Program) -> None:
        """Know nothing of it any more, as there are too many."""
        self._programs.pop(program.name, None)

    def _waited(self, program: Program, now: int) -> None:
        for tool, began in program.calls.values():
            self.learned.waited(tool, now - began)
        if program.turns and not program.calls and not program.returned:
            self.learned.waited(_UNTOLD, now - program.since)
        program.calls.clear()
        program.returned = 0

    def _reached(self, program: Program, length: int) -> None:
        if program.turns and length > program.length:
            self.learned.grew(program.agent, length - program.length)
        program.length = max(program.length, length)

    # expectations

    def remaining(self, program: Program, now: int) -> int:
        """How long it is expected to be until it asks again, microseconds."""
        if program.requests:
            return 0
        if program.calls:
            return max(self.learned.remaining(tool, now - began) for tool, began in program.calls.values())
        if program.returned:
            return max(now - program.returned, 0)
        return self.learned.remaining(_UNTOLD, now - program.since)

    def chance(self, program: Program, now: int) -> float:
        """How likely it is to ask again at all."""
        if program.is_awaited:
            return 1.0
        tool = PERSON if program.calls else _UNTOLD
        return self.learned.chance(program.agent, tool, now - program.since)
