"""A fork, decided: a new thread's first events are those of another up to one of them, and then it goes its own way.

The history comes with the command, as data, for the decision must be explainable from its inputs alone and another
thread's state is none of them. It is logged as the events it is, so that folding, showing and verifying a fork is
nothing special; `thread.forked` marks where it ends. What was begun in the origin and had no result there is begun
anew after that, under the same effect ids: they are unique in a thread, and this is another.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import msgspec

from actors.agent.conversation import Conversation
from actors.agent.folding import Folding
from actors.agent.run import Run
from actors.agent.standing import named_by
from actors.agent.turns import after_model, next_step, start
from actors.memory.working import written
from actors.runtime.machine import Decision, Emitted
from schemas import codec
from schemas.commands import Command, RunAgent
from schemas.errors import BadShape
from schemas.forks import Fork, Past
from schemas.memory import ThreadDeleted, WorkingWritten
from schemas.profiles import Profile
from schemas.runs import (
    CommandAccepted,
    CommandRefused,
    MemoryWritten,
    MessageAdded,
    OwnershipTaken,
    Problem,
    ThreadForked,
    ToolReturned,
)
from schemas.standing import ModeChanged

_UNFOLDABLE = (KeyError, IndexError, ValueError, AssertionError)
"""What folding events raises that do not follow from one another."""


_WRITTEN = MemoryWritten | WorkingWritten | ModeChanged


class Unfit(Exception):
    """A fork that cannot be decided as it was asked for."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.problem = Problem(kind="invalid", message=message, field=field)


def forked(state: Conversation, command: Command, fork: Fork, missing: Problem | None) -> Decision:
    """Take a fork on, or refuse it."""
    try:
        if missing is None:
            return _forked(state, command, fork)
        problem = missing
    except Unfit as unfit:
        problem = unfit.problem
    return Decision([Emitted("thread", state.thread, CommandRefused(command=command, problem=problem))], [])


def _forked(state: Conversation, command: Command, fork: Fork) -> Decision:
    if state.commands or state.refused:
        raise Unfit(f"thread {state.thread!r} exists: fork into a new one", "thread")
    history = past(fork.history, state.thread)
    folding = Folding(state)
    folding.emit("thread", state.thread, CommandAccepted(command=command))
    fold(folding, history)
    run = going_on(folding.state, history)
    if fork.run != (run or ""):
        raise Unfit(f"run: what goes on after event {fork.at} is {run or 'nothing'!r}, not {fork.run!r}", "run")
    profile = _profile(fork)
    if profile is not None and run is None:
        raise Unfit(f"profile: nothing goes on after event {fork.at} that could have one", "profile")
    marker = ThreadForked(origin=fork.origin, at=fork.at, changes=fork.changes, run=fork.run, profile=profile)
    folding.emit("thread", state.thread, marker)
    if run is not None:
        try:
            _go_on(folding, run, history, profile)
        except _UNFOLDABLE as error:
            raise Unfit(f"history: run {run!r} cannot go on from it ({error!r})", "history") from error
    return folding.decision()


def past(history: Sequence[Past], thread: str) -> list[Emitted]:
    """Read the history of a fork as events of the new thread.

    Raises:
        Unfit: one is no event that a thread may begin with.
    """
    found = []
    for index, item in enumerate(history):
        try:
            event = codec.decode_event(codec.encode(item.event))
        except BadShape as error:
            raise Unfit(f"history[{index}]: {error}", f"history[{index}]") from error
        foreign = isinstance(event, OwnershipTaken | ThreadForked | ThreadDeleted)
        if foreign or (isinstance(event, CommandAccepted) and isinstance(event.command.data, Fork)):
            raise Unfit(f"history[{index}]: leave out what is no part of a conversation", f"history[{index}]")
        found.append(Emitted(item.kind, thread if item.kind == "thread" else item.entity, event))
    return found


def fold(folding: Folding, history: Sequence[Emitted]) -> None:
    """Fold a history.

    Raises:
        Unfit: an event does not follow from those before it.
    """
    for index, emitted in enumerate(history):
        try:
            folding.emit(*emitted)
        except _UNFOLDABLE as error:
            message = f"history[{index}]: it does not follow from what is before it ({error!r})"
            raise Unfit(message, f"history[{index}]") from error


def going_on(state: Conversation, history: Sequence[Emitted]) -> str | None:
    """Name the run that goes on where a history ends; None when all is said.

    Raises:
        Unfit: two would.
    """
    asked = _unstarted(state, history)
    if state.active is None:
        return state.queue[0] if state.queue else asked
    if asked is not None:
        raise Unfit(f"at: run {asked!r} came in there and is not queued yet: take the next event along", "at")
    return state.active


def _unstarted(state: Conversation, history: Sequence[Emitted]) -> str | None:
    """Name the run that was asked for last, if nothing has come of it."""
    commands = [emitted.event.command for emitted in history if isinstance(emitted.event, CommandAccepted)]
    runs = [command.id for command in commands if isinstance(command.data, RunAgent)]
    return runs[-1] if runs and runs[-1] not in state.runs else None


def _profile(fork: Fork) -> Profile | None:
    if fork.profile is None:
        return None
    try:
        return msgspec.convert(fork.profile, Profile, str_keys=True)
    except msgspec.ValidationError as error:
        raise Unfit(f"profile: {error}", "profile") from error


def _go_on(folding: Folding, name: str, history: Sequence[Emitted], profile: Profile | None) -> None:
    run = folding.state.runs.get(name)
    if run is None or folding.state.active is None:
        profile = profile or (None if run is None else run.profile)
        if profile is None:
            raise Unfit(f"profile: run {name!r} had not begun there: say what it is", "profile")
        said = sum(1 for _ in takewhile(lambda emitted: isinstance(emitted.event, MessageAdded), reversed(history)))
        start(folding, folding.state.commands[name], profile, said)
        return
    _remember(folding, run, history)
    if run.answer is None:
        next_step(folding, name)
    else:
        after_model(folding, run, run.answer)


def _remember(folding: Folding, run: Run, history: Sequence[Emitted]) -> None:
    """Write what the last tool wanted remembered, as far as the history does not."""
    there = [*takewhile(lambda emitted: isinstance(emitted.event, _WRITTEN), reversed(history))]
    last = history[len(history) - len(there) - 1].event
    if isinstance(last, ToolReturned):
        by = named_by(run.profile)
        for write in last.writes[len(there) :]:
            folding.emit("thread", folding.state.thread, written(folding.state.memory, write, agent=by))
