"""What a run waits for, and what an agent's own functions make of it, in words for a timeline. Pure."""

from __future__ import annotations

from schemas import codec
from schemas.delegation import ChildDisowned, ChildEnded, RunHandedOver, RunJoined
from schemas.hooks import HooksTold, StepOpened, StepPrepared
from schemas.runs import Event
from schemas.tasks import TaskCancelled, TaskEnded, TaskStarted
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
            return "", ""


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
