"""A batch, pure: its file is read, its lines are answered some at a time, and its files are closed.

One shard owns a batch, and only its owner can append: of a line there is one end in the log, whoever dies meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from actors.runtime.machine import Answer, Asked, Decision, Effect, Emitted
from schemas.batches import (
    Batch,
    BatchCancelling,
    BatchCreated,
    BatchExpired,
    BatchFinalizing,
    BatchLineEnded,
    BatchLinesBegun,
    BatchRead,
    BatchWritten,
    CancelBatch,
    CreateBatch,
    Outcome,
)
from schemas.commands import Command
from schemas.context import Context
from schemas.runs import CommandAccepted, CommandRefused, Event, Problem

LONGEST_ID = 40
"""Characters of a batch's id: those of its generations and files are made of it."""


class BatchState(msgspec.Struct, frozen=True):
    """One batch's state."""

    tenant: str
    id: str
    batch: Batch | None = None
    """None before it is begun."""
    expires: int = 0
    reading: bool = False
    """Whether its file is yet to be read."""
    total: int = 0
    width: int = 0
    begun: int = 0
    """Lines that were begun: the first ones."""
    under_way: frozenset[int] = frozenset()
    """Those of them that have no answer."""
    closing: Outcome | None = None
    """What it comes to, while its files are to be closed."""
    over: bool = False
    commands: frozenset[str] = frozenset()
    refused: Mapping[str, Problem] = {}

    @property
    def going(self) -> bool:
        """Whether lines are, or will be, answered."""
        return self.batch is not None and self.closing is None and not self.over


class ReadFile(Effect, frozen=True, kw_only=True):
    """Read the file."""

    batch: Batch


class AwaitExpiry(Effect, frozen=True, kw_only=True):
    """Wait until its time is over."""

    at: int


class AnswerLine(Effect, frozen=True, kw_only=True):
    """Answer a line, and write the answer."""

    batch: Batch
    line: int
    expires: int


class CloseFiles(Effect, frozen=True, kw_only=True):
    """Write what is left to be said of lines without an answer, and close the files."""

    batch: Batch
    total: int
    outcome: Outcome


class BatchMachine:
    """The `Machine` of batches."""

    def shape(self) -> type[BatchState]:
        """Return the state's type."""
        return BatchState

    def initial(self, tenant: str, thread: str) -> BatchState:
        """Return a batch that nobody has begun."""
        return BatchState(tenant, thread)

    def evolve(self, state: BatchState, emitted: Emitted) -> BatchState:
        """Fold one fact."""
        return replace(state, **_changed(state, emitted.event))

    def answered(self, state: BatchState, command: str) -> Answer | None:
        """Say whether the command has been decided before."""
        return "accepted" if command in state.commands else state.refused.get(command)

    def ask(self, state: BatchState, asked: Asked, context: Context) -> Decision:
        """Begin, or end."""
        command = asked.command
        problem = _unfit(state, command)
        if problem is not None:
            return Decision([_emitted(state, CommandRefused(command=command, problem=problem))], [])
        events: list[Event] = [CommandAccepted(command=command)]
        match command.data:
            case CreateBatch(batch=batch):
                events.append(BatchCreated(batch, context.now, context.now + batch.window_s * 1_000_000))
            case _ if state.going:
                events.append(BatchCancelling(context.now, by=command.source))
                events.append(BatchFinalizing("cancelled", context.now))
        return _decision(self, state, events)

    def follow(self, state: BatchState, result: Emitted, context: Context) -> Decision:
        """Go on with the next line, or close the files."""
        return _decision(self, state, _following(state, result.event, context.now))

    def open_effects(self, state: BatchState) -> Sequence[Effect]:
        """List what is to be done."""
        batch, about = state.batch, ("batch", state.id, "")
        if batch is None:
            return []
        if state.closing is not None:
            return [CloseFiles(f"{state.id}-w", *about, batch=batch, total=state.total, outcome=state.closing)]
        found: list[Effect] = []
        if state.reading:
            found.append(ReadFile(f"{state.id}-r", *about, batch=batch))
        found += [
            AnswerLine(f"{state.id}-{line}", *about, batch=batch, line=line, expires=state.expires)
            for line in sorted(state.under_way)
        ]
        if state.going:
            found.append(AwaitExpiry(f"{state.id}-x", *about, at=state.expires))
        return found


def _changed(state: BatchState, event: Event) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    match event:
        case CommandAccepted(command=command):
            changed = {"commands": state.commands | {command.id}}
        case CommandRefused(command=command, problem=problem):
            changed = {"refused": {**state.refused, command.id: problem}}
        case BatchCreated(batch=batch, expires=expires):
            changed = {"batch": batch, "expires": expires, "reading": True}
        case BatchRead(total=total, width=width, problems=problems):
            changed = {"reading": False, "total": total, "width": width, "over": bool(problems)}
        case BatchLinesBegun(until=until):
            changed = {"under_way": state.under_way | set(range(state.begun, until)), "begun": until}
        case BatchLineEnded(line=line):
            changed = {"under_way": state.under_way - {line}}
        case BatchFinalizing(outcome=outcome):
            changed = {"reading": False, "under_way": frozenset[int](), "closing": outcome}
        case BatchWritten():
            changed = {"closing": None, "over": True}
        case _:
            pass
    return changed


def _following(state: BatchState, event: Event, now: int) -> list[Event]:
    if not state.going:
        return []
    match event:
        case BatchExpired():
            return [BatchFinalizing("expired", now)]
        case BatchRead() | BatchLineEnded() if state.begun < state.total:
            return [BatchLinesBegun(min(state.total, state.begun + state.width - len(state.under_way)))]
        case BatchRead() | BatchLineEnded() if not state.under_way:
            return [BatchFinalizing("completed", now)]
        case _:
            return []


def _unfit(state: BatchState, command: Command) -> Problem | None:
    if isinstance(command.data, CreateBatch):
        if len(state.id) > LONGEST_ID:
            message = f"the id of a batch has at most {LONGEST_ID} characters, this one {len(state.id)}"
            return Problem(kind="invalid", message=message, field="batch")
        if state.batch is not None:
            return Problem(kind="invalid", message=f"batch {state.id!r} exists: use a fresh id", field="batch")
        return None
    if not isinstance(command.data, CancelBatch):
        return Problem(kind="invalid", message=f"a batch cannot {command.verb!r}", field="verb")
    if state.batch is None:
        return Problem(kind="invalid", message=f"batch {state.id!r} does not exist", field="batch")
    return None


def _decision(machine: BatchMachine, state: BatchState, events: Sequence[Event]) -> Decision:
    """Emit events, with what they open that was not open before."""
    emitted = [_emitted(state, event) for event in events]
    before = {effect.id for effect in machine.open_effects(state)}
    after = state
    for one in emitted:
        after = machine.evolve(after, one)
    return Decision(emitted, [effect for effect in machine.open_effects(after) if effect.id not in before])


def _emitted(state: BatchState, event: Event) -> Emitted:
    return Emitted("batch", state.id, event)
