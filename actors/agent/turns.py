"""The turns of a run, pure: what is emitted and begun when it starts, asks, has an answer, calls tools and ends.

What the loop does after each input, and what a fork does to go on, is put together from these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec.structs import replace

from actors.agent.conversation import Conversation, Pending, Run, Waits, evolve, incoming
from actors.memory.prompt import prompt_of, shared_by, shown_from
from actors.memory.state import Memory
from actors.runtime.machine import Decision, Effect, Emitted
from schemas.commands import Command, RunAgent
from schemas.generation import BROKEN_OFF
from schemas.hooks import StepOpened
from schemas.messages import Message, ToolCall
from schemas.profiles import Profile, ToolBinding
from schemas.runs import (
    NEEDS_PERSON,
    ApprovalRequested,
    Event,
    MessageAdded,
    ModelCalled,
    ModelReturned,
    Problem,
    RunFailed,
    RunFinished,
    RunStarted,
    ToolCalled,
    ToolFailed,
    ToolIndeterminate,
)
from schemas.waits import ToolHandedOver


class CallModel(Effect, frozen=True, kw_only=True):
    """Ask the model to continue the conversation."""

    called: ModelCalled
    profile: Profile
    messages: tuple[Message, ...]
    context: Mapping[str, Any] = {}
    """Of the request."""
    said: tuple[Message, ...] = ()
    """What it is shown of the thread, as it was said."""
    memory: Memory = Memory()


class CallTool(Effect, frozen=True, kw_only=True):
    """Run a tool."""

    called: ToolCalled
    agent: str
    notes: dict[str, str]
    model: str = ""
    """The one that asked for it, and waits."""
    binding: ToolBinding | None = None
    context: Mapping[str, Any] = {}
    """Of the request."""
    answers: tuple[Any, ...] = ()
    """What it was given each time that it was suspended."""
    depth: int = 0
    """How many runs are above this one."""
    approvals: Literal["ask", "refuse"] = "ask"
    """Whether there is somebody who can be asked."""
    problem: str = ""
    """Why what it was given last did not do."""
    processors: tuple[str, ...] = ()
    """Those that look at what it returns."""
    messages: tuple[Message, ...] = ()
    """What was said in the thread before."""
    shared: str = ""
    """The resource whose threads share the working memory."""


class PrepareStep(Effect, frozen=True, kw_only=True):
    """Ask the agent's functions about the step that comes next."""

    step: int
    run: Run
    messages: tuple[Message, ...]
    notes: dict[str, str]
    context: Mapping[str, Any]


class TellEnd(Effect, frozen=True, kw_only=True):
    """Tell the agent's observers that a run is over."""

    run: Run
    ended: RunFinished | RunFailed
    context: Mapping[str, Any]


class AwaitDeadline(Effect, frozen=True, kw_only=True):
    """Wait until a run is to be over."""

    at: int
    """Microseconds since the Unix epoch."""


class Folding:
    """Collects events, folding each at once so that the next sees it."""

    def __init__(self, state: Conversation) -> None:
        self.state = state
        self.events: list[Emitted] = []
        self.effects: list[Effect] = []

    def emit(self, kind: str, entity: str, event: Event) -> None:
        """Add an event."""
        emitted = Emitted(kind, entity, event)
        self.events.append(emitted)
        self.state = evolve(self.state, emitted)

    def decision(self) -> Decision:
        """Give what was collected."""
        return Decision(self.events, self.effects)


def start(folding: Folding, command: Command, profile: Profile, said: int = 0) -> None:
    """Begin a run; the first `said` of the messages it brings are in the thread already."""
    for message in incoming(command)[said:]:
        folding.emit("thread", folding.state.thread, MessageAdded(message=message))
    folding.emit("run", command.id, RunStarted(profile=profile))
    folding.effects += await_deadline(folding.state, command.id)
    next_step(folding, command.id)


def await_deadline(state: Conversation, name: str) -> list[AwaitDeadline]:
    """Make the effect of a run's deadline, if it has one."""
    at = state.runs[name].deadline
    return [AwaitDeadline(f"{name}-d", "run", name, state.commands[name].traceparent, at=at)] if at else []


def next_step(folding: Folding, name: str) -> None:
    """Begin a step: ask the agent's functions about it where there are any, else the model."""
    run = folding.state.runs[name]
    if not run.profile.prepares:
        ask_model(folding, name)
        return
    step = run.step + 1 if run.retry is None else run.step
    folding.emit("run", name, StepOpened(effect=f"{name}-{step}-p", step=step))
    folding.effects += prepare_step(folding.state, name)


def prepare_step(state: Conversation, name: str) -> list[PrepareStep]:
    """Make the effect of a `step.opened`, if the run is there."""
    run = state.runs[name]
    if run.opened is None:
        return []
    place, context = (run.opened.effect, "run", name, state.commands[name].traceparent), context_of(state, name)
    told: dict[str, Any] = {"messages": state.messages, "notes": dict(state.notes), "context": context}
    return [PrepareStep(*place, step=run.opened.step, run=run, **told)]


def tell_end(state: Conversation, name: str) -> TellEnd:
    """Make the effect of an observed run's end."""
    run = state.runs[name]
    assert run.ended is not None
    trace = state.commands[name].traceparent
    return TellEnd(f"{name}-h", "run", name, trace, run=run, ended=run.ended, context=context_of(state, name))


def context_of(state: Conversation, name: str) -> Mapping[str, Any]:
    """Give the context of the request that a run was asked for with."""
    data = state.commands[name].data
    return data.context if isinstance(data, RunAgent) else {}


def ask_model(folding: Folding, name: str) -> None:
    """Ask the run's model to go on, or what it was asked already."""
    state = folding.state
    run = state.runs[name]
    profile = run.effective
    step, attempt = (run.step + 1, "") if run.retry is None else (run.step, str(run.retry.attempt))
    called = ModelCalled(
        effect=f"{name}-{step}-m{attempt}",
        model=profile.model,
        step=step,
        seen=len(state.messages),
        prefix=state.prefix,
        sampling=profile.sampling,
        traceparent=state.commands[name].traceparent,
        first=shown_from(state.messages, state.memory, profile.memory),
    )
    folding.emit("run", name, called)
    folding.effects.append(call_model(folding.state, run, called))


def call_model(state: Conversation, run: Run, called: ModelCalled) -> CallModel:
    """Make the effect of a `model.called`."""
    seen = prompt_of(state.messages, called.first, called.seen, state.memory, run.profile.memory, run.refused)
    place, about = (called.effect, "run", run.id, called.traceparent), context_of(state, run.id)
    told: dict[str, Any] = {
        "messages": seen,
        "said": state.messages[called.first : called.seen],
        "memory": state.memory,
    }
    return CallModel(*place, called=called, profile=run.effective, context=about, **told)


def call_tool(state: Conversation, run: Run, effect: str, call: ToolCall, item: Pending | None = None) -> CallTool:
    """Make the effect of a `tool.called`, of a call that has waited for somebody with what came of that."""
    binding = next(tool for tool in run.profile.tools if tool.name == call.name)
    return CallTool(
        effect,
        "run",
        run.id,
        state.commands[run.id].traceparent,
        called=ToolCalled(effect=effect, call=call, effect_class=binding.effect),
        agent=run.profile.agent,
        notes=dict(state.notes),
        model=run.effective.model,
        binding=binding,
        context=context_of(state, run.id),
        depth=_depth(state, run.id),
        approvals="ask" if can_ask(state, run.id) else "refuse",
        answers=() if item is None else item.answers,
        attempts=1 if item is None else item.attempts,
        processors=run.profile.processors,
        messages=state.messages,
        shared=shared_by(state.memory, run.profile.memory),
    )


def _depth(state: Conversation, name: str) -> int:
    data = state.commands[name].data
    return data.parent.depth if isinstance(data, RunAgent) and data.parent is not None else 0


def after_model(folding: Folding, run: Run, answer: ModelReturned) -> None:
    """Do what the model's answer asks for; of its tool calls, those that nothing is known of yet."""
    if answer.finish_reason in BROKEN_OFF:
        message = f"the model's answer was broken off ({answer.finish_reason})"
        end(folding, run, RunFailed(problem=Problem(kind="engine", message=message), steps=run.step))
        return
    if not answer.tool_calls:
        reason: Literal["stop", "length"] = "length" if answer.finish_reason == "length" else "stop"
        finished = RunFinished(text=answer.text, steps=run.step, usage=run.usage, finish_reason=reason)
        end(folding, run, finished)
        return
    if run.step >= run.profile.max_steps:
        message = f"the agent still wanted tools after {run.step} model calls (max_steps)"
        end(folding, run, RunFailed(problem=Problem(kind="max_steps", message=message), steps=run.step))
        return
    call_wished(folding, run.id)
    after_tool(folding, run)


def call_wished(folding: Folding, name: str) -> None:
    """Do what is still to be done of what the model wants, in its order, as far as there is room for it."""
    run = folding.state.runs[name]
    known = {item.effect for item in run.pending}
    for index, call in enumerate(run.answer.tool_calls if run.answer is not None else ()):
        effect = f"{name}-{run.step}-t{index}"
        if effect in known:
            continue
        if not _has_room(folding.state.runs[name]):
            return
        _after_wish(folding, run, effect, call)


def _has_room(run: Run) -> bool:
    most = run.profile.tool_concurrency
    return not most or sum(item.result is None and item.waits is None for item in run.pending) < most


def _after_wish(folding: Folding, run: Run, effect: str, call: ToolCall) -> None:
    """Call the tool that the model wants, ask whether it may be called, or tell the model why not."""
    tools = {tool.name: tool for tool in run.effective.tools}
    assert run.answer is not None
    judged = {f"{run.id}-{run.step}-t{item.index}": item for item in run.answer.judged}.get(effect)
    if call.name not in tools:
        known = ", ".join(tools) or "none"
        refuse_tool(folding, run, effect, call, f"no tool named {call.name!r} (tools: {known})")
    elif judged is not None and judged.problem:
        refuse_tool(folding, run, effect, call, judged.problem)
    elif not (tools[call.name].approval if judged is None else judged.approval):
        begin_tool(folding, run, effect, call)
    elif can_ask(folding.state, run.id):
        folding.emit("run", run.id, ApprovalRequested(effect=effect, call=call))
    else:
        message = f"{call.name!r} {NEEDS_PERSON}, which cannot be asked for here"
        refuse_tool(folding, run, effect, call, message)


def can_ask(state: Conversation, name: str) -> bool:
    """Say whether there is somebody who can be asked during a run."""
    data = state.commands[name].data
    return not isinstance(data, RunAgent) or data.approvals == "ask"


def begin_tool(folding: Folding, run: Run, effect: str, call: ToolCall) -> None:
    """Call a tool, or have the caller do so."""
    begun = call_tool(folding.state, run, effect, call)
    if begun.binding is not None and begun.binding.place == "client":
        folding.emit("run", run.id, ToolHandedOver(effect=effect, call=call))
        return
    folding.emit("run", run.id, begun.called)
    folding.effects.append(begun)


def go_on_with(folding: Folding, run: Run, item: Pending) -> None:
    """Call a suspended tool again, with all that it was given."""
    begun = call_tool(folding.state, run, item.under_way, item.call, item)
    folding.emit("run", run.id, begun.called)
    folding.effects.append(begun)


def refuse_tool(folding: Folding, run: Run, effect: str, call: ToolCall, why: str) -> None:
    """Tell the model why its call comes to nothing."""
    folding.emit("run", run.id, ToolFailed(effect=effect, call_id=call.id, content=f"error: {why}"))


def waiting(state: Conversation, kind: Waits | None = None) -> tuple[Pending, ...]:
    """List the tool calls of the active run that wait for somebody: for anybody, or of one kind."""
    run = state.runs.get(state.active or "")
    held = () if run is None else (item for item in run.pending if item.waits is not None and item.result is None)
    return tuple(item for item in held if kind in {None, item.waits})


def after_tool(folding: Folding, run: Run) -> None:
    """Begin the next step once every result of this one is in; until then, what there is room for now."""
    call_wished(folding, run.id)
    run = folding.state.runs[run.id]
    done = run.answer is not None and len(run.pending) == len(run.answer.tool_calls)
    if not done or any(item.result is None for item in run.pending):
        return
    reason = _stopping(run)
    if reason:
        stop(folding, run, reason)
    else:
        next_step(folding, run.id)


def _stopping(run: Run) -> str:
    """Name the condition by which a run ends although its model has not said all."""
    named = next(
        (item.call.name for item in run.pending if item.returned and item.call.name in run.profile.stop_tools), None
    )
    if named is not None:
        return f"tool {named}"
    used = run.usage.prompt_tokens + run.usage.completion_tokens
    return "tokens" if 0 < run.profile.most_tokens <= used else ""


def stop(folding: Folding, run: Run, reason: str) -> None:
    """End a run with what its model said last."""
    text = "" if run.answer is None else run.answer.text
    end(folding, run, RunFinished(text=text, steps=run.step, usage=run.usage, stopped_by=reason))


def break_off(folding: Folding, run: Run, problem: Problem) -> None:
    """End a run whatever it is doing: what it began has no further say."""
    for item in run.pending if run.id == folding.state.active else ():
        if item.result is not None:
            continue
        content = "error: the run was broken off"
        if item.waits in {"approval", "data"}:
            folding.emit("run", run.id, ToolFailed(effect=item.effect, call_id=item.call.id, content=content))
        else:
            content += f"; it is not known whether {item.call.name!r} took effect"
            folding.emit("run", run.id, ToolIndeterminate(effect=item.under_way, call_id=item.call.id, content=content))
    if run.id == folding.state.active and run.answer is not None:
        known = {item.effect for item in run.pending}
        wished = ((f"{run.id}-{run.step}-t{index}", call) for index, call in enumerate(run.answer.tool_calls))
        for effect, call in wished:
            if known and effect not in known:
                refuse_tool(folding, run, effect, call, "the run was broken off")
    end(folding, folding.state.runs[run.id], RunFailed(problem=problem, steps=run.step))


def replace_active(folding: Folding, run: Run, command: Command, profile: Profile) -> None:
    """End what is under way for a run that takes its place, before any that waits."""
    problem = Problem(kind="aborted", message=f"the run was ended for another one, {command.id!r}")
    queued, folding.state = folding.state.queue, replace(folding.state, queue=())
    break_off(folding, run, problem)
    folding.state = replace(folding.state, queue=queued)
    start(folding, command, profile)


def end(folding: Folding, run: Run, event: RunFinished | RunFailed) -> None:
    """End the run and start the next in the queue, unless one goes on."""
    folding.emit("run", run.id, event)
    if run.profile.observed:
        folding.effects.append(tell_end(folding.state, run.id))
    if folding.state.queue and folding.state.active is None:
        name = folding.state.queue[0]
        start(folding, folding.state.commands[name], folding.state.runs[name].profile)
