"""Doubles for agent authors and tests: a scripted model, a fixed clock, counted ids, known chance, no record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from actors.errors import CallFailed
from actors.models.provider import ModelAnswer, ModelCall, OnText, Piece
from bus.errors import Unavailable
from bus.log import START, Position
from bus.snapshots import Checkpoint, Fold, History, Snapshot, ThreadKey
from bus.store import StoredEvent
from schemas.messages import ToolCall, Usage
from schemas.programs import ProgramNote
from schemas.runs import Problem

Say = str | ToolCall | Sequence[ToolCall] | Problem
"""A line of a script: text, tool calls, or a failure."""


async def _hear_nothing(piece: Piece, /) -> None:
    """Take no text."""


@dataclass
class ScriptedModel:
    """A `ModelProvider` that answers from a function of the call, a word at a time.

    Keeps every call it got; an effect id that comes again gets the same answer, as an engine would give it.
    """

    script: Callable[[ModelCall], Say]
    calls: list[ModelCall] = field(default_factory=list)
    hold: asyncio.Event | None = None
    """When given, an answer waits for it after its first word."""

    price: float | None = None
    """What each answer costs, US dollars; None is not known."""

    aborted: list[str] = field(default_factory=list)
    """Requests that were to be stopped."""

    notes: list[ProgramNote] = field(default_factory=list)
    """What it heard of programs between their calls."""

    async def note(self, note: ProgramNote) -> None:
        """Keep it."""
        self.notes.append(note)

    async def abort(self, request: str) -> None:
        """Note it; the caller's task is cancelled anyway."""
        self.aborted.append(request)

    async def search(self, call: ModelCall) -> list[ModelAnswer]:
        """Answer as often as is wanted: a script has one answer."""
        return [await self.call(call, _hear_nothing) for _ in range(call.n)]

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Answer as scripted."""
        self.calls.append(call)
        said = self.script(call)
        usage = Usage(prompt_tokens=len(call.messages), completion_tokens=1)
        if isinstance(said, Problem):
            raise CallFailed(said)
        if not isinstance(said, str):
            calls = (said,) if isinstance(said, ToolCall) else tuple(said)
            return ModelAnswer(text="", finish_reason="tool_calls", usage=usage, tool_calls=calls, cost=self.price)
        offset = 0
        for word in said.split(" "):
            piece = word if offset == 0 else " " + word
            await on_text(Piece(offset, piece))
            offset += len(piece)
            if self.hold is not None:
                await self.hold.wait()
        return ModelAnswer(text=said, finish_reason="stop", usage=usage, cost=self.price)


@dataclass
class FixedClock:
    """A clock that stands still until it is set."""

    microseconds: int = 1_767_225_600_000_000

    def now(self) -> int:
        """Return the time it was set to."""
        return self.microseconds


@dataclass
class CountedIds:
    """Ids that count: `c1`, `c2`, …"""

    made: int = 0

    def new(self, prefix: str) -> str:
        """Return the next id."""
        self.made += 1
        return f"{prefix}{self.made}"


@dataclass
class KnownChance:
    """Draws the same number for ever."""

    number: int = 7

    def bits(self, count: int) -> int:
        """Return the number, cut to `count` bits."""
        return self.number & ((1 << count) - 1)


class NoRecord:
    """A record that is never there: every owner reads its whole shard and keeps it in memory."""

    async def head(self, shard: int) -> Position:
        """Know nothing."""
        return START

    async def checkpoint(self, shard: int) -> Checkpoint | None:
        """Know nothing."""
        return None

    async def histories(
        self, keys: Sequence[ThreadKey], folds: Mapping[str, Fold], until: int | None
    ) -> dict[ThreadKey, History]:
        """Know nothing.

        Raises:
            Unavailable: always.
        """
        raise Unavailable("there is no record")

    async def facts(self, shard: int, until: int) -> AsyncIterator[tuple[Position, list[StoredEvent]]]:
        """Know nothing.

        Raises:
            Unavailable: always.
        """
        raise Unavailable("there is no record")
        yield

    async def keep(self, shard: int, checkpoint: Checkpoint, snapshots: Sequence[Snapshot]) -> None:
        """Forget it."""
