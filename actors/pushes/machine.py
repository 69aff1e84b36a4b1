"""What is said of one task to whoever wants to hear of it, pure: each change to each of them, tried until it is told.

One shard owns it, and only its owner can append: of many processes that hear of a change, one tells of it. A try whose
outcome was not logged, as its process ended, is made again: each is told at least once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

import msgspec
from msgspec.structs import replace

from actors.runtime.machine import Answer, Asked, Decision, Effect, Emitted
from schemas.commands import Command
from schemas.context import Context
from schemas.pushes import (
    ForgetPushes,
    PushForgotten,
    PushNoticed,
    PushTarget,
    PushTried,
    SubscribePush,
    UnsubscribePush,
    push_id,
)
from schemas.runs import CommandAccepted, CommandRefused, Event, Problem

KIND: Final = "push"
MOST_TARGETS: Final = 10
"""Of one task."""


class Due(msgspec.Struct, frozen=True):
    """Something that somebody is to be told."""

    name: str
    """Of all tries together."""
    target: str
    body: str
    """As of `PushNoticed`."""
    attempt: int = 1
    at: int = 0
    """Not before that time."""


class PushState(msgspec.Struct, frozen=True):
    """What is said of one task."""

    tenant: str
    id: str
    thread: str = ""
    run: str = ""
    """Empty before anybody subscribed."""
    targets: Mapping[str, PushTarget] = {}
    dues: tuple[Due, ...] = ()
    notices: int = 0
    told: tuple[str, ...] = ()
    """Effects that wait, or did, and were told of."""
    over: bool = False
    """Whether the task is: it changes no more."""
    forgotten: bool = False
    commands: frozenset[str] = frozenset()
    refused: Mapping[str, Problem] = {}


class WatchTask(Effect, frozen=True, kw_only=True):
    """Wait until the task stands otherwise."""

    thread: str
    run: str
    told: tuple[str, ...]


class TellOf(Effect, frozen=True, kw_only=True):
    """Tell somebody."""

    thread: str
    run: str
    due: Due
    target: PushTarget


class PushMachine:
    """The `Machine` of what is said of tasks."""

    def shape(self) -> type[PushState]:
        """Return the state's type."""
        return PushState

    def initial(self, tenant: str, thread: str) -> PushState:
        """Return a task that nobody wants to hear of."""
        return PushState(tenant, thread)

    def evolve(self, state: PushState, emitted: Emitted) -> PushState:
        """Fold one fact."""
        match emitted.event:
            case CommandAccepted(command=command):
                return _commanded(replace(state, commands=state.commands | {command.id}), command)
            case CommandRefused(command=command, problem=problem):
                return replace(state, refused={**state.refused, command.id: problem})
            case PushNoticed() as noticed:
                return _noticed(state, noticed)
            case PushTried() as tried:
                return replace(state, dues=tuple(left for due in state.dues if (left := _after(due, tried))))
            case PushForgotten():
                # whoever folds it without its key comes to the same
                return PushState(state.tenant, state.id, forgotten=True)
            case _:
                return state

    def answered(self, state: PushState, command: str) -> Answer | None:
        """Say whether the command has been decided before."""
        return "accepted" if command in state.commands else state.refused.get(command)

    def ask(self, state: PushState, asked: Asked, context: Context) -> Decision:
        """Take on whom to tell, or tell them no more."""
        command = asked.command
        problem = _unfit(state, command) or asked.missing
        if problem is not None:
            # what is said of what is over is not written down, nor whom a task that may never be was to tell
            if state.forgotten or problem is asked.missing:
                command = replace(command, verb="forget", data=ForgetPushes())
            return Decision([_emitted(state, CommandRefused(command=command, problem=problem))], [])
        events: list[Event] = [CommandAccepted(command=command)]
        if isinstance(command.data, ForgetPushes):
            events.append(PushForgotten())
        emitted = [_emitted(state, event) for event in events]
        after = state
        for one in emitted:
            after = self.evolve(after, one)
        return Decision(emitted, self._opened(state, after))

    def follow(self, state: PushState, result: Emitted, context: Context) -> Decision:
        """Tell of what was noticed and look on, or try again."""
        match result.event:
            case PushNoticed():
                fresh = f"{state.id}-{state.notices}-"
                opened = self.open_effects(state)
                return Decision(
                    [], [one for one in opened if not isinstance(one, TellOf) or one.due.name.startswith(fresh)]
                )
            case PushTried(effect=effect, again=again) if again:
                name = effect.rpartition("-")[0]
                opened = self.open_effects(state)
                return Decision([], [one for one in opened if isinstance(one, TellOf) and one.due.name == name])
            case _:
                return Decision([], [])

    def open_effects(self, state: PushState) -> Sequence[Effect]:
        """List what is to be told, and whether it is looked for more."""
        about = (KIND, state.id, "")
        found: list[Effect] = [
            TellOf(
                f"{due.name}-a{due.attempt}",
                *about,
                thread=state.thread,
                run=state.run,
                due=due,
                target=state.targets[due.target],
            )
            for due in state.dues
        ]
        if state.targets and not state.over:
            watch = WatchTask(
                f"{state.id}-w{state.notices + 1}", *about, thread=state.thread, run=state.run, told=state.told
            )
            found.append(watch)
        return found

    def _opened(self, before: PushState, after: PushState) -> list[Effect]:
        known = {effect.id for effect in self.open_effects(before)}
        return [effect for effect in self.open_effects(after) if effect.id not in known]


def _commanded(state: PushState, command: Command) -> PushState:
    match command.data:
        case SubscribePush(thread=thread, run=run, target=target):
            targets = {**state.targets, target.id: target}
            # who comes when all is over is told at once: nothing else will ever be
            late = state.over and target.id not in state.targets
            dues = (*state.dues, Due(f"{state.id}-late-{command.id}", target.id, "")) if late else state.dues
            return replace(state, thread=thread, run=run, targets=targets, dues=dues)
        case UnsubscribePush(target=gone):
            targets = {name: target for name, target in state.targets.items() if name != gone}
            return replace(state, targets=targets, dues=tuple(due for due in state.dues if due.target != gone))
        case _:
            return state


def _noticed(state: PushState, noticed: PushNoticed) -> PushState:
    number = state.notices + 1
    names = () if noticed.outcome == "lost" else tuple(sorted(state.targets))
    dues = [Due(f"{state.id}-{number}-{index}", name, noticed.body) for index, name in enumerate(names)]
    return replace(
        state,
        notices=number,
        told=(*state.told, *noticed.waits),
        over=noticed.outcome != "waiting",
        dues=(*state.dues, *dues),
    )


def _after(due: Due, tried: PushTried) -> Due | None:
    if tried.effect != f"{due.name}-a{due.attempt}":
        return due
    return replace(due, attempt=due.attempt + 1, at=tried.again) if tried.again else None


def _unfit(state: PushState, command: Command) -> Problem | None:
    if state.forgotten:
        return Problem(kind="unknown_thread", message="the task's thread was deleted", field="thread")
    match command.data:
        case SubscribePush(thread=thread, run=run) if not _is_named(state.id, thread, run):
            message = f"what is said of run {run!r} of thread {thread!r} goes by {push_id(thread, run)!r}"
            return Problem(kind="invalid", message=message, field="thread")
        case SubscribePush(target=target):
            if target.id not in state.targets and len(state.targets) >= MOST_TARGETS:
                message = f"at most {MOST_TARGETS} may be told of a task: unsubscribe one first"
                return Problem(kind="invalid", message=message, field="target")
        case UnsubscribePush(target=gone) if gone not in state.targets:
            return Problem(kind="invalid", message=f"nobody is told of the task as {gone!r}", field="target")
        case UnsubscribePush() | ForgetPushes():
            pass
        case _:
            return Problem(kind="invalid", message=f"a push cannot {command.verb!r}", field="verb")
    return None


def _is_named(name: str, thread: str, run: str) -> bool:
    """Say whether what is said of a task goes by a name: a stranger's would be told of it, and outlive its thread."""
    # as the first logs have it, which are decided the same whatever names are made of by now
    recorded = "p" + blake2b(f"{thread}/{run}".encode(), digest_size=12).hexdigest()
    return name in {push_id(thread, run), recorded}


def _emitted(state: PushState, event: Event) -> Emitted:
    return Emitted(KIND, state.id, event)
