"""A thread's events as lines a person can follow: when, who, what, how many tokens, how long. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from actors.memory.state import MemoryEvent
from actors.runtime.cells import FAMILY
from bus.steps import StoredStep
from bus.store import StoredEvent, ThreadSummary
from infra.cli.erased import ERASED, legible
from infra.cli.remembered import told_of_memory
from infra.cli.terminal import PLAIN, Style, printable
from infra.cli.told import told_of_waits
from schemas import codec
from schemas.commands import AbortRun, Approve, Command, Deny, Generate, PostResult, Resume, RunAgent
from schemas.forks import Fork
from schemas.generation import request_id
from schemas.runs import (
    ApprovalDenied,
    ApprovalGiven,
    ApprovalRequested,
    CommandAccepted,
    CommandRefused,
    DeadlinePassed,
    Event,
    MemoryWritten,
    MessageAdded,
    ModelCalled,
    ModelFailed,
    ModelReturned,
    RetryDue,
    RetryScheduled,
    RunFailed,
    RunFinished,
    RunQueued,
    RunStarted,
    ThreadForked,
    ToolCalled,
    ToolFailed,
    ToolIndeterminate,
    ToolResumed,
    ToolReturned,
)
from schemas.steps import StepPlan, StepResult
from schemas.times import microseconds, rfc3339

WIDTH = 100
PROBLEMS = frozenset({"command.refused", "model.failed", "run.failed", "tool.failed", "tool.indeterminate"})


class Line(msgspec.Struct, frozen=True):
    """One event, told."""

    number: int
    """Which event of its thread, from 1: what `fork --at` takes and `diff` names."""
    place: str
    """`<sequence>/<index>` in the log."""
    time: str
    at_s: float
    """Seconds since the first event shown."""
    actor: str
    kind: str
    """The event's type."""
    entity: str
    version: int
    summary: str
    tokens: str
    """`<prompt>+<completion>`, with the cached ones in brackets."""
    latency_s: float | None
    """Since the intention this is the result of."""
    effect: str | None
    request: str | None
    """What the engine called it, for an effect of a model."""
    data: msgspec.Raw

    def text(self, style: Style = PLAIN) -> str:
        """Write it for a terminal."""
        latency = "" if self.latency_s is None else f"{self.latency_s * 1000:.0f} ms"
        summary = printable(self.summary).replace("\n", " ")
        summary = summary if len(summary) <= WIDTH else summary[: WIDTH - 1] + "…"
        end = f"{self.kind:<18} {latency:>9} {self.tokens:>12}  {summary}".rstrip()
        if self.kind in PROBLEMS:
            end = style.problem(end)
        elif self.kind.startswith("tool."):
            end = style.aside(end)
        return f"{self.number:>4} {self.at_s:>9.3f}s  {style.name(f'{printable(self.actor):<14}')} {end}"


def lines(events: Sequence[StoredEvent], numbers: Sequence[int] | None = None) -> list[Line]:
    """Tell a thread's events, in order.

    Args:
        events: all of a thread's, or some.
        numbers: which of the thread's they are; all, unless given.
    """
    began: dict[str, int] = {}
    told = []
    for number, stored in zip(numbers or range(1, len(events) + 1), events, strict=True):
        event = legible(stored.fact)
        effect = getattr(event, "effect", None)
        key = effect or stored.fact.entity
        latency = None
        if isinstance(event, ModelCalled | RetryScheduled | ToolCalled | RunStarted):
            began[key] = stored.time
        elif key in began and not isinstance(event, MessageAdded | MemoryWritten):
            latency = (stored.time - began[key]) / 1e6
        actor, summary = ERASED if event is None else told_of(event)
        told.append(
            Line(
                number=number,
                place=f"{stored.sequence}/{stored.idx}",
                time=rfc3339(stored.time),
                at_s=(stored.time - events[0].time) / 1e6,
                actor=actor,
                kind=stored.fact.type,
                entity=stored.fact.entity,
                version=stored.fact.version,
                summary=summary,
                tokens=tokens_of(event),
                latency_s=latency,
                effect=effect,
                request=request_id(stored.fact.tenant, stored.fact.thread, effect) if effect else None,
                data=stored.fact.payload,
            )
        )
    return told


def tokens_of(event: Event | None) -> str:
    if not isinstance(event, ModelReturned | RunFinished):
        return ""
    used = event.usage
    cached = f"({used.cached_tokens})" if used.cached_tokens else ""
    return f"{used.prompt_tokens}{cached}+{used.completion_tokens}"


def told_of(event: Event) -> tuple[str, str]:
    """Say who did it, and what in one line."""
    if isinstance(event, MemoryEvent | MemoryWritten):
        return told_of_memory(event)
    match event:
        case CommandAccepted(command=command):
            return command.source or "client", f"{_asked_for(command)} (command {command.id})"
        case CommandRefused(command=command, problem=problem):
            return command.source or "client", f"refused: {problem.message}"
        case MessageAdded(message=message):
            return message.role, repr(message.content)
        case ThreadForked(origin=origin, at=at, changes=changes):
            changed = ", ".join(f"{change.name}={change.value!r}" for change in changes)
            return "fork", f"up to here event 1 to {at} of {origin}{', ' if changed else ''}{changed}"
        case _:
            return _told_of_run(event)


def _asked_for(command: Command) -> str:
    match command.data:
        case RunAgent(agent=agent):
            return f"run {agent}"
        case Generate(model=model):
            return f"ask {model}"
        case Fork(origin=origin, at=at):
            return f"fork {origin} at event {at}"
        case AbortRun(run=run):
            return f"abort {run or 'what is under way'}"
        case Approve(effect=effect) | Deny(effect=effect) | Resume(effect=effect) | PostResult(effect=effect):
            return f"{command.verb} {effect}"
        case _:
            return f"{command.verb} {command.thread}"


def _told_of_run(event: Event) -> tuple[str, str]:
    match event:
        case RunQueued(behind=behind, joins=joins):
            told = ("agent", f"{'joins' if joins else 'waits for'} run {behind}")
        case RunStarted(profile=profile):
            told = ("agent", f"{profile.agent} on {profile.model}, tools: {', '.join(t.name for t in profile.tools)}")
        case RunFinished(text=text, steps=steps):
            told = ("agent", f"after {steps} {_noun('model call', steps)}: {text!r}")
        case RunFailed(problem=problem):
            told = ("agent", f"{problem.kind}: {problem.message}")
        case ModelCalled(step=step, seen=seen, model=model):
            told = ("agent", f"step {step}: {model} sees {seen} {_noun('message', seen)}")
        case _:
            told = _told_of_effect(event)
    return told


def _told_of_effect(event: Event) -> tuple[str, str]:
    match event:
        case ModelReturned() | ModelFailed() | RetryScheduled() | RetryDue():
            told = _told_of_model(event)
        case ApprovalRequested(call=call):
            told = ("agent", f"may it? {call.name} {call.arguments}")
        case ApprovalGiven(by=by):
            told = (by or "client", "it may")
        case ApprovalDenied(by=by, reason=reason):
            told = (by or "client", f"it may not{': ' if reason else ''}{reason}")
        case ToolCalled(call=call):
            told = ("agent", f"{call.name} {call.arguments}")
        case DeadlinePassed():
            told = ("clock", "the run was to be over by now")
        case ToolResumed(attempt=attempt):
            told = ("agent", f"attempt {attempt}: its process had ended")
        case ToolReturned(content=content) | ToolFailed(content=content) | ToolIndeterminate(content=content):
            told = ("tool", repr(content))
        case _:
            told = told_of_waits(event)
    return told


def _told_of_model(event: ModelReturned | ModelFailed | RetryScheduled | RetryDue) -> tuple[str, str]:
    match event:
        case ModelReturned(text=text, tool_calls=calls, reasoning=reasoning):
            wants = ", ".join(f"{call.name} {call.arguments}" for call in calls)
            said = f"wants {wants}" if calls else repr(text)
            return "model", f"thinks {reasoning!r}, {said}" if reasoning else said
        case ModelFailed(problem=problem):
            return "model", f"{problem.kind}: {problem.message}"
        case RetryScheduled(at=at, decided=decided, attempt=attempt, kind=kind):
            return "agent", f"{kind}: attempt {attempt} in {(at - decided) / 1e6:.1f} s"
        case RetryDue():
            return "clock", "the model is asked again"


def _noun(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


class ThreadLine(msgspec.Struct, frozen=True):
    """A thread or bare generation, in one line."""

    thread: str
    last: str
    """Time of its last event."""
    kind: str
    """`agent` or `generation`."""
    turns: int
    events: int
    state: str
    """The type of its last event that says how it stands."""
    said: str
    """What was asked last."""

    def text(self, style: Style = PLAIN) -> str:
        """Write it for a terminal."""
        said = self.said if len(self.said) <= WIDTH // 2 else self.said[: WIDTH // 2 - 1] + "…"
        turns, events = _noun("turn", self.turns), _noun("event", self.events)
        counts = f"{self.turns:>3} {turns:<5} {self.events:>4} {events:<6}"
        return (
            f"{style.name(f'{self.thread:<24}')} {self.last[:19]}Z  {self.kind:<10} {counts}  {self.state:<15} {said!r}"
        )


def summary(thread: ThreadSummary, events: Sequence[StoredEvent]) -> ThreadLine:
    """Tell a thread in one line."""
    said, turns = "", 0
    for stored in events:
        event = legible(stored.fact)
        if isinstance(event, CommandAccepted | CommandRefused):
            turns += not isinstance(event.command.data, Fork)
            if isinstance(event.command.data, Generate):
                said = _asked_of(event.command.data)
        elif isinstance(event, MessageAdded):
            said = event.message.content
    return ThreadLine(
        thread=thread.thread,
        last=rfc3339(thread.last),
        kind=FAMILY[events[0].fact.kind] if events else "agent",
        turns=turns,
        events=thread.events,
        state=events[-1].fact.type if events else "",
        said=said,
    )


def _asked_of(data: Generate) -> str:
    """Give what a bare model was asked last; of a prompt in token ids, how many."""
    if data.prompt is not None:
        return data.prompt if isinstance(data.prompt, str) else f"{len(data.prompt)} tokens"
    return data.messages[-1].content if data.messages else ""


class ExpiredSteps(msgspec.Struct, frozen=True):
    """Says that steps of a model call are not kept any more."""

    expired: Literal["all", "some"]
    """Of the call's steps."""
    before: str
    """Steps from before this time are gone."""

    def text(self, style: Style = PLAIN) -> str:
        """Write it for a terminal."""
        which = "its steps" if self.expired == "all" else "some of its steps"
        return f"{'':13}{style.aside(f'{which} have expired: those before {self.before[:10]} are not kept')}"


def expired_steps(returned: Line, gone_before: int) -> ExpiredSteps | None:
    """Say whether steps of a call have expired; None if all are kept.

    Args:
        returned: the line of its `model.returned`.
        gone_before: steps from before this time are gone, microseconds since the Unix epoch.
    """
    began = microseconds(returned.time) - round((returned.latency_s or 0.0) * 1e6)
    if began >= gone_before:
        return None
    which: Literal["all", "some"] = "all" if microseconds(returned.time) < gone_before else "some"
    return ExpiredSteps(which, rfc3339(gone_before))


class StepLine(msgspec.Struct, frozen=True):
    """One scheduler step, as it served one request."""

    step: int
    epoch: str
    batch: int
    """Requests computed in the step."""
    others: tuple[str, ...]
    """Those beside this one."""
    start: int
    """First position computed for this request."""
    count: int
    """Positions computed for it."""
    blocks: tuple[int, ...]
    """KV blocks it got in this step."""
    cached: int
    """Positions that were in the prefix cache, when this is its first step."""
    token: int | None
    """What was sampled for it."""
    compute_us: int | None

    def text(self, style: Style = PLAIN) -> str:
        """Write it for a terminal."""
        took = "no result" if self.compute_us is None else f"{self.compute_us / 1000:.1f} ms"
        got = f"  blocks +{list(self.blocks)}" if self.blocks else ""
        cached = f"  {self.cached} positions cached" if self.cached else ""
        token = "" if self.token is None else f"  token {self.token}"
        span = f"{self.start}..{self.start + self.count - 1}"
        told = f"step {self.step:<6} batch {self.batch:<3} positions {span:<10} {took}{token}{cached}{got}"
        return f"{'':13}{style.aside(told)}"


def step_lines(request: str, steps: Sequence[StoredStep]) -> list[StepLine]:
    """Tell the steps that served a request."""
    told = []
    for stored in steps:
        plan: StepPlan = codec.decode(stored.plan, StepPlan)
        results: list[StepResult] = [codec.decode(result, StepResult) for result in stored.results]
        tokens: dict[str, Any] = dict(results[0].tokens) if results else {}
        arrival = next((arrival for arrival in plan.arrivals if arrival.request == request), None)
        for part in plan.slices:
            if part.request != request:
                continue
            told.append(
                StepLine(
                    step=plan.n,
                    epoch=plan.epoch,
                    batch=len(plan.slices),
                    others=tuple(other.request for other in plan.slices if other.request != request),
                    start=part.start,
                    count=part.count,
                    blocks=(arrival.blocks if arrival is not None else ()) + part.blocks,
                    cached=arrival.computed if arrival is not None else 0,
                    token=tokens.get(request),
                    compute_us=results[0].compute_us if results else None,
                )
            )
    return told
