"""A schedule, pure: when it fires next, what of what it missed is made up for, and the runs that it asks for.

One shard owns a schedule, and only its owner can append: of many processes that see it due, one fires it. The run's id
is made of the schedule's and of when it was due, so that a command that is sent again after a crash is decided once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from actors.request_context import too_large
from actors.runtime.machine import Answer, Asked, Decision, Effect, Emitted
from actors.schedules.cron import latest_due, next_due, why_unfit
from schemas.commands import Command, RunAgent
from schemas.context import Context
from schemas.runs import CommandAccepted, CommandRefused, Event, Problem
from schemas.schedules import (
    AddSchedule,
    FireSchedule,
    PauseSchedule,
    RemoveSchedule,
    Schedule,
    ScheduleAdded,
    ScheduleClosed,
    ScheduleDue,
    ScheduleErased,
    ScheduleFired,
    ScheduleMissed,
    SchedulePaused,
    SchedulePlanned,
    ScheduleRemoved,
    ScheduleSent,
    UnpauseSchedule,
)
from schemas.times import rfc3339

LONGEST_ID = 40
"""Characters of a schedule's id: those of its runs are made of it."""
ON_TIME = 60_000_000
"""A fire so many microseconds late was not missed."""


class ScheduleState(msgspec.Struct, frozen=True):
    """One schedule's state."""

    tenant: str
    id: str
    schedule: Schedule | None = None
    """None before it is added."""
    removed: bool = False
    closed: bool = False
    """Whether nothing of it is read any more, as its key is being destroyed."""
    erased: bool = False
    """Whether that is done."""
    paused: bool = False
    next: int | None = None
    """When it fires next."""
    sending: tuple[ScheduleFired, ...] = ()
    """Fired, and not known to be sent."""
    by_hand: int = 0
    """Fires that somebody wanted."""
    commands: frozenset[str] = frozenset()
    refused: Mapping[str, Problem] = {}


class AwaitDue(Effect, frozen=True, kw_only=True):
    """Wait until it is due."""

    at: int
    timezone: str


class SendRun(Effect, frozen=True, kw_only=True):
    """Ask the agent."""

    command: Command


class CloseSchedule(Effect, frozen=True, kw_only=True):
    """Note what outlives its key."""

    commands: tuple[str, ...]
    by_hand: int


class EraseSchedule(Effect, frozen=True, kw_only=True):
    """Destroy its key, and delete what was made of what it asks."""


class ScheduleMachine:
    """The `Machine` of schedules."""

    def shape(self) -> type[ScheduleState]:
        """Return the state's type."""
        return ScheduleState

    def initial(self, tenant: str, thread: str) -> ScheduleState:
        """Return a schedule that nobody has added."""
        return ScheduleState(tenant, thread)

    def evolve(self, state: ScheduleState, emitted: Emitted) -> ScheduleState:
        """Fold one fact."""
        return _evolved(state, emitted.event)

    def answered(self, state: ScheduleState, command: str) -> Answer | None:
        """Say whether the command has been decided before."""
        return "accepted" if command in state.commands else state.refused.get(command)

    def ask(self, state: ScheduleState, asked: Asked, context: Context) -> Decision:
        """Begin, pause, go on, fire now, or end."""
        command = asked.command
        problem = asked.missing or _unfit(state, command)
        if problem is not None:
            return Decision([_emitted(state, CommandRefused(command=command, problem=problem))], [])
        events = [CommandAccepted(command=command), *_decided(state, command, context.now)]
        return _decision(self, state, events)

    def follow(self, state: ScheduleState, result: Emitted, context: Context) -> Decision:
        """Fire what is due, as far as it is to be made up for, and wait for the next."""
        due = result.event
        if isinstance(due, ScheduleSent | ScheduleClosed):
            return Decision([], _ending(state))
        if not isinstance(due, ScheduleDue) or state.schedule is None:
            return Decision([], [])
        first = 1_000_000 * int(due.effect.rpartition("-")[2])
        return _decision(self, state, _made_up_for(state, state.schedule, first, due.at))

    def open_effects(self, state: ScheduleState) -> Sequence[Effect]:
        """List the commands that are to be sent, and what it waits for."""
        found: list[Effect] = [_send(state, fired) for fired in state.sending]
        if state.next is not None and state.schedule is not None:
            identity, zone = _due_id(state, state.next), state.schedule.timezone
            found.append(AwaitDue(identity, "schedule", state.id, "", at=state.next, timezone=zone))
        return [*found, *_ending(state)]


_BEGUN: Mapping[str, Any] = {"removed": False, "closed": False, "erased": False, "paused": False, "next": None}


def _evolved(state: ScheduleState, event: Event) -> ScheduleState:
    changed: dict[str, Any] = {}
    match event:
        case CommandAccepted(command=command):
            changed = {"commands": state.commands | {command.id}}
        case CommandRefused(command=command, problem=problem):
            changed = {"refused": {**state.refused, command.id: problem}}
        case ScheduleAdded(schedule=schedule):
            changed = {"schedule": schedule, **_BEGUN}
        case SchedulePlanned(next=due):
            changed = {"paused": False, "next": due}
        case SchedulePaused():
            changed = {"paused": True, "next": None}
        case ScheduleDue():
            changed = {"next": None}
        case ScheduleFired(by=by) as fired:
            changed = {"sending": (*state.sending, fired), "by_hand": state.by_hand + bool(by)}
        case ScheduleSent(effect=run):
            changed = {"sending": tuple(fired for fired in state.sending if fired.run != run)}
        case _:
            return _ended(state, event)
    return replace(state, **changed)


def _ended(state: ScheduleState, event: Event) -> ScheduleState:
    match event:
        case ScheduleRemoved():
            return replace(state, removed=True, paused=False, next=None)
        case ScheduleClosed(commands=commands, by_hand=by_hand):
            # whoever folds it without its key comes to the same
            heeded = frozenset(commands)
            return ScheduleState(state.tenant, state.id, removed=True, closed=True, commands=heeded, by_hand=by_hand)
        case ScheduleErased():
            return replace(state, erased=True)
        case _:
            return state


def _unfit(state: ScheduleState, command: Command) -> Problem | None:
    data = command.data
    if isinstance(data, AddSchedule):
        return _unfit_schedule(state, data.schedule)
    if state.schedule is None or state.removed:
        message = f"schedule {state.id!r} does not exist: add it first"
        return Problem(kind="invalid", message=message, field="schedule")
    return None


def _unfit_schedule(state: ScheduleState, schedule: Schedule) -> Problem | None:
    if len(state.id) > LONGEST_ID:
        message = f"the id of a schedule has at most {LONGEST_ID} characters, this one {len(state.id)}"
        return Problem(kind="invalid", message=message, field="schedule")
    if too_large(schedule.context):
        return Problem(kind="invalid", message=too_large(schedule.context), field="context")
    found = why_unfit(schedule)
    return None if found is None else Problem(kind="invalid", message=found[1], field=found[0])


def _decided(state: ScheduleState, command: Command, now: int) -> Sequence[Event]:
    match command.data:
        case AddSchedule(schedule=schedule):
            return [ScheduleAdded(schedule=schedule), SchedulePlanned(at=now, next=next_due(schedule, now))]
        case PauseSchedule():
            return [] if state.paused else [SchedulePaused(by=command.source)]
        case UnpauseSchedule() if state.paused and state.schedule is not None:
            return [SchedulePlanned(at=now, next=next_due(state.schedule, now))]
        case FireSchedule():
            run = f"{state.id}-n{state.by_hand + 1}"
            return [_fired(state, run, now, command.source or "a client")]
        case RemoveSchedule():
            return [ScheduleRemoved(by=command.source)]
        case _:
            return []


def _made_up_for(state: ScheduleState, schedule: Schedule, first: int, now: int) -> Sequence[Event]:
    dues = latest_due(schedule, first, now, schedule.most if schedule.missed == "all" else 1)
    if schedule.missed == "skip":
        dues = [due for due in dues if now - due <= ON_TIME]
    events: list[Event] = []
    before = dues[0] if dues else now + 1
    if first < before:
        events.append(ScheduleMissed(first=first, before=before))
    events += [_fired(state, _due_id(state, due), due) for due in dues]
    return [*events, SchedulePlanned(at=now, next=next_due(schedule, now))]


def _fired(state: ScheduleState, run: str, due: int, by: str = "") -> ScheduleFired:
    assert state.schedule is not None
    return ScheduleFired(run=run, thread=state.schedule.thread or run, due=due, by=by)


def _due_id(state: ScheduleState, due: int) -> str:
    return f"{state.id}-{due // 1_000_000}"


def _send(state: ScheduleState, fired: ScheduleFired) -> SendRun:
    schedule = state.schedule
    assert schedule is not None
    command = Command(
        id=fired.run,
        tenant=state.tenant,
        kind="agent",
        thread=fired.thread,
        verb="run",
        data=RunAgent(schedule.agent, schedule.text, context=schedule.context, resource=schedule.resource),
        source=f"schedule {state.id}",
        time=rfc3339(fired.due),
    )
    return SendRun(fired.run, "schedule", state.id, "", command=command)


def _ending(state: ScheduleState) -> list[Effect]:
    """Say what is next until one that was removed is erased; what is to be sent says what was asked, and goes first."""
    if not state.removed or state.erased or state.sending:
        return []
    if state.closed:
        return [EraseSchedule(f"{state.id}-e", "schedule", state.id, "")]
    commands = tuple(sorted(state.commands))
    return [CloseSchedule(f"{state.id}-c", "schedule", state.id, "", commands=commands, by_hand=state.by_hand)]


def _decision(machine: ScheduleMachine, state: ScheduleState, events: Sequence[Event]) -> Decision:
    """Emit events, with what they open that was not open before."""
    emitted = [_emitted(state, event) for event in events]
    before = {effect.id for effect in machine.open_effects(state)}
    after = state
    for one in emitted:
        after = machine.evolve(after, one)
    return Decision(emitted, [effect for effect in machine.open_effects(after) if effect.id not in before])


def _emitted(state: ScheduleState, event: Event) -> Emitted:
    return Emitted("schedule", state.id, event)
