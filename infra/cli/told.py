"""What a run waits for, and what an agent's own functions make of it, in words for a timeline. Pure."""

from __future__ import annotations

from infra.cli.told_standing import told_of_standing
from schemas import codec
from schemas.batches import (
    BatchCancelling,
    BatchCreated,
    BatchExpired,
    BatchFinalizing,
    BatchLineEnded,
    BatchLinesBegun,
    BatchRead,
    BatchWritten,
)
from schemas.delegation import ChildDisowned, ChildEnded, RunHandedOver, RunJoined
from schemas.hooks import HooksTold, StepOpened, StepPrepared
from schemas.runs import Event
from schemas.schedules import (
    ScheduleAdded,
    ScheduleClosed,
    ScheduleDue,
    ScheduleErased,
    ScheduleEvent,
    ScheduleFired,
    ScheduleMissed,
    SchedulePaused,
    SchedulePlanned,
    ScheduleRemoved,
)
from schemas.standing import StandingEvent
from schemas.tasks import TaskCancelled, TaskEnded, TaskStarted
from schemas.times import rfc3339
from schemas.waits import ToolContinued, ToolHandedOver, ToolSuspended


def told_of_waits(event: Event) -> tuple[str, str]:
    """Say who did what, and what it was; nothing of an event that is told elsewhere."""
    match event:
        case StepOpened() | StepPrepared() | HooksTold():
            return _told_of_hooks(event)
        case RunJoined() | RunHandedOver() | ChildDisowned() | ChildEnded():
            return _told_among_runs(event)
        case ToolSuspended(payload=payload, problem=problem):
            return "tool", f"waits for data: {codec.encode(payload).decode()}{'; ' if problem else ''}{problem}"
        case ToolContinued(by=by, answer=answer):
            return by or "client", f"gives {codec.encode(answer).decode()}"
        case ToolHandedOver(call=call):
            return "agent", f"the caller is to run {call.name} {call.arguments}"
        case _:
            return _told_of_tasks(event)


def _told_of_tasks(event: Event) -> tuple[str, str]:
    match event:
        case TaskStarted(effect=effect, call=call):
            return "agent", f"in the background, as {effect}: {call.name} {call.arguments}"
        case TaskEnded(effect=effect, outcome=outcome, content=content):
            return "tool", f"{effect} {outcome}: {content!r}"
        case TaskCancelled(effect=effect, by=by, reason=reason):
            return by or "client", f"cancels {effect}{': ' if reason else ''}{reason}"
        case _:
            return _told_elsewhere(event)


def _told_elsewhere(event: Event) -> tuple[str, str]:
    if isinstance(event, StandingEvent):
        return told_of_standing(event)
    return _told_of_schedules(event) if isinstance(event, ScheduleEvent) else _told_of_batches(event)


def _told_among_runs(event: RunJoined | RunHandedOver | ChildDisowned | ChildEnded) -> tuple[str, str]:
    match event:
        case RunJoined(into=into, step=step):
            return "agent", f"goes on in run {into}, from its step {step} on"
        case RunHandedOver(agent=agent, by=by):
            return by, f"hands the thread over to {agent}"
        case ChildDisowned(effect=effect):
            return "agent", f"ends the run that {effect.removesuffix('x')} is"
        case ChildEnded():
            return "agent", "it was told to end"


def _told_of_hooks(event: StepOpened | StepPrepared | HooksTold) -> tuple[str, str]:
    match event:
        case StepPrepared(stop=stop, failure=failure) as prepared:
            fields = ("model", "instructions", "active_tools", "temperature", "max_tokens", "calling")
            changed = [name for name in fields if getattr(prepared, name) is not None]
            return "hooks", failure or (f"stop: {stop}" if stop else f"changes {', '.join(changed) or 'nothing'}")
        case StepOpened(step=step):
            return "agent", f"asks its functions about step {step}"
        case HooksTold():
            return "hooks", "told of the end"


def _told_of_schedules(event: ScheduleEvent) -> tuple[str, str]:
    match event:
        case ScheduleAdded(schedule=schedule):
            told = "schedule", f"{schedule.cron} ({schedule.timezone}) asks {schedule.agent}: {schedule.text}"
        case SchedulePlanned(next=due):
            told = "schedule", "is never due again" if due is None else f"is due next at {rfc3339(due)}"
        case ScheduleDue(at=at):
            told = "clock", f"due, seen at {rfc3339(at)}"
        case ScheduleFired(run=run, due=due, by=by):
            told = by or "schedule", f"fires as {run}, due at {rfc3339(due)}"
        case ScheduleMissed(first=first, before=before):
            told = "schedule", f"missed from {rfc3339(first)} until before {rfc3339(before)}"
        case SchedulePaused(by=by):
            told = by or "client", "pauses it"
        case ScheduleRemoved(by=by):
            told = by or "client", "removes it"
        case ScheduleClosed():
            told = "schedule", "is over: its key is destroyed next"
        case ScheduleErased(unsealed=unsealed):
            left = f"; {unsealed} events were never sealed" if unsealed else ""
            told = "schedule", f"is erased{left}"
        case _:
            told = "schedule", event.problem or "sent"
    return told


def _told_of_batches(event: Event) -> tuple[str, str]:
    told = ("", "")
    match event:
        case BatchCreated(batch=batch, expires=expires):
            told = "batch", f"answers {batch.input_file} at {batch.endpoint}, until {rfc3339(expires)}"
        case BatchRead(total=total, problems=()):
            told = "batch", f"has {total} lines"
        case BatchRead(problems=(first, *_)):
            told = "batch", f"is none: {first.message}"
        case BatchLinesBegun(until=until):
            told = "batch", f"begins all lines before line {until}"
        case BatchLineEnded(line=line, failed=failed):
            told = "batch", f"line {line} {'has failed' if failed else 'is answered'}"
        case BatchCancelling(by=by):
            told = by or "client", "cancels it"
        case BatchExpired():
            told = "clock", "its time is over"
        case BatchFinalizing(outcome=outcome):
            told = "batch", f"closes its files: {outcome}"
        case BatchWritten(outcome=outcome, completed=completed, failed=failed):
            told = "batch", f"{outcome}: {completed} answered, {failed} not"
        case _:
            pass
    return told
