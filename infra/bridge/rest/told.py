"""How a run stands, from its events. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from schemas import codec
from schemas.delegation import RunJoined
from schemas.live import Committed
from schemas.messages import Usage
from schemas.rest import RunShown, ThreadUsage
from schemas.runs import (
    ApprovalDenied,
    ApprovalGiven,
    ApprovalRequested,
    Event,
    ModelCalled,
    RunFailed,
    RunFinished,
    RunQueued,
    RunStarted,
    ToolFailed,
    ToolIndeterminate,
    ToolReturned,
)
from schemas.standing import GoalJudged
from schemas.waits import ToolContinued, ToolHandedOver, ToolSuspended


def run_of(run: str, thread: str, events: Sequence[Committed]) -> RunShown:
    """Tell how a run stands after its events, of which there is at least one."""
    shown = RunShown(run, thread, "", "queued", events=events[-1].version)
    waiting: set[str] = set()
    for event in events:
        shown = _after(shown, codec.decode_event(event.data), event.time, waiting)
    return replace(shown, status="waiting") if waiting and shown.status == "running" else shown


def _after(shown: RunShown, event: Event, time: str, waiting: set[str]) -> RunShown:
    match event:
        case RunQueued(profile=profile):
            return replace(shown, agent=profile.agent)
        case RunStarted(profile=profile):
            return replace(shown, agent=profile.agent, status="running", started=time)
        case ModelCalled(step=step):
            return replace(shown, steps=step)
        case ApprovalRequested() | ToolSuspended() | ToolHandedOver():
            waiting.add(event.effect)
        case ApprovalGiven() | ApprovalDenied() | ToolContinued() | ToolReturned() | ToolFailed() | ToolIndeterminate():
            waiting.discard(event.effect)
        case RunJoined(into=into):
            return replace(shown, status="joined", joined=into, ended=time)
        case RunFinished() | RunFailed():
            return _ended(shown, event, time)
        case _:
            pass
    return shown


def _ended(shown: RunShown, event: RunFinished | RunFailed, time: str) -> RunShown:
    told: dict[str, Any] = {"steps": event.steps, "usage": event.usage, "cost": event.cost, "ended": time}
    if isinstance(event, RunFinished):
        about = {"text": event.text, "finish_reason": event.finish_reason, "stopped_by": event.stopped_by}
        return replace(shown, status="finished", **about, **told)
    status = "aborted" if event.problem.kind == "aborted" else "failed"
    return replace(shown, status=status, problem=event.problem, **told)


def taken_by(thread: str, ends: Sequence[RunFinished | RunFailed | GoalJudged]) -> ThreadUsage:
    """Sum up what runs, and judges that are models, took, from their last words."""
    took = [end for end in ends if not isinstance(end, GoalJudged) or end.usage != Usage()]
    runs = sum(not isinstance(end, GoalJudged) for end in took)
    priced = [end.cost for end in took if end.cost is not None]
    usage = sum((end.usage for end in took), Usage())
    return ThreadUsage(thread, runs, usage, sum(priced) if priced else None, len(took) - len(priced))
