"""The form of every state machine of the system: pure `decide` and `evolve`, and the effects they ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Literal, NamedTuple, Protocol, TypeGuard, TypeVar

import msgspec

from schemas.batches import BatchExpired, BatchLineEnded, BatchRead, BatchWritten
from schemas.commands import Command
from schemas.context import Context
from schemas.delegation import ChildEnded
from schemas.hooks import HooksTold, StepPrepared
from schemas.memory import CondensingEnded, ThreadErased
from schemas.profiles import Profile
from schemas.pushes import PushNoticed, PushTried
from schemas.runs import DeadlinePassed, Event, ModelFailed, ModelReturned, Problem, RetryDue, ToolResult, ToolResumed
from schemas.schedules import ScheduleClosed, ScheduleDue, ScheduleErased, ScheduleSent
from schemas.standing import GoalJudged
from schemas.tasks import TaskEnded
from schemas.waits import ToolSuspended

S = TypeVar("S")

Result = (
    ModelReturned
    | ModelFailed
    | ToolResult
    | ToolSuspended
    | DeadlinePassed
    | RetryDue
    | StepPrepared
    | HooksTold
    | ChildEnded
    | TaskEnded
    | ThreadErased
    | CondensingEnded
    | GoalJudged
    | ScheduleDue
    | ScheduleSent
    | ScheduleClosed
    | ScheduleErased
    | BatchRead
    | BatchLineEnded
    | BatchExpired
    | BatchWritten
    | PushNoticed
    | PushTried
)
"""What an effect ends in."""

Answer = Literal["accepted"] | Problem
"""What a command was told: taken on, or why not."""


class Emitted(NamedTuple):
    """An event and the entity it happened to."""

    kind: str
    entity: str
    event: Event


class Effect(msgspec.Struct, frozen=True):
    """Something to be done in the world; its intention is already an event."""

    id: str
    """The effect id: the same for every attempt."""
    kind: str
    entity: str
    traceparent: str
    attempts: int = 1
    """How often it was begun, as far as the log says."""


class Decision(NamedTuple):
    """What follows from an input: facts first, then what to do."""

    events: Sequence[Emitted]
    effects: Sequence[Effect]


class Asked(msgspec.Struct, frozen=True):
    """A command, and what was looked up for it: an input of the decision, so the log keeps that too."""

    command: Command
    profile: Profile | None = None
    """What the named agent is."""
    missing: Problem | None = None
    """Why the look-up found nothing."""


class Machine(Protocol, Generic[S]):
    """A pure state machine over one thread's events."""

    def shape(self) -> type[S]:
        """Return the state's type, which is made of wire shapes: a snapshot is decoded as that."""

    def initial(self, tenant: str, thread: str) -> S:
        """Return the state before any event."""

    def evolve(self, state: S, emitted: Emitted) -> S:
        """Fold one fact into the state. Never fails: the event has already happened."""

    def ask(self, state: S, asked: Asked, context: Context) -> Decision:
        """Decide on a command. The first event is `command.accepted` or `command.refused`."""

    def follow(self, state: S, result: Emitted, context: Context) -> Decision:
        """Decide what follows from an effect's result, which `state` already contains."""

    def answered(self, state: S, command: str) -> Answer | None:
        """Return `accepted`, or why it was refused, if the command has been decided before."""

    def open_effects(self, state: S) -> Sequence[Effect]:
        """List the intentions without a result, in order."""


def is_resumption(event: Event) -> TypeGuard[ToolResumed]:
    """Say whether an event only notes that an effect begins again: an input that nothing follows from."""
    return isinstance(event, ToolResumed)


def is_result(event: Event) -> TypeGuard[Result]:
    """Say whether an event came from an effect (an input) rather than from a decision."""
    return isinstance(event, Result)
