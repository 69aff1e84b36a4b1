"""The turns of a run, pure: what is emitted and begun when it starts, asks, has an answer, calls tools and ends.

What the loop does after each input, and what a fork does to go on, is put together from these.
"""

from __future__ import annotations

from typing import Literal

from actors.agent.conversation import Conversation, Pending, Run, evolve, incoming
from actors.memory.prompt import prompt_of
from actors.memory.window import first_shown
from actors.runtime.machine import Decision, Effect, Emitted
from schemas.commands import Command, RunAgent
from schemas.generation import BROKEN_OFF
from schemas.messages import Message, ToolCall
from schemas.runs import (
    NEEDS_PERSON,
    ApprovalRequested,
    Event,
    MessageAdded,
    ModelCalled,
    ModelReturned,
    Problem,
    Profile,
    RunFailed,
    RunFinished,
    RunStarted,
    ToolCalled,
    ToolFailed,
    ToolIndeterminate,
)


class CallModel(Effect, frozen=True, kw_only=True):
    """Ask the model to continue the conversation."""

    called: ModelCalled
    profile: Profile
    messages: tuple[Message, ...]
    resource: str = ""
    """Whose thread it is."""


class CallTool(Effect, frozen=True, kw_only=True):
    """Run a tool."""

    called: ToolCalled
    agent: str
    notes: dict[str, str]
    model: str = ""
    """The one that asked for it, and waits."""
    processors: tuple[str, ...] = ()
    """Those that look at what it returns."""


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
    ask_model(folding, command.id)


def await_deadline(state: Conversation, name: str) -> list[AwaitDeadline]:
    """Make the effect of a run's deadline, if it has one."""
    at = state.runs[name].deadline
    return [AwaitDeadline(f"{name}-d", "run", name, state.commands[name].traceparent, at=at)] if at else []


def ask_model(folding: Folding, name: str) -> None:
    """Ask the run's model to go on, or what it was asked already."""
    state = folding.state
    run = state.runs[name]
    step, attempt = (run.step + 1, "") if run.retry is None else (run.step, str(run.retry.attempt))
    called = ModelCalled(
        effect=f"{name}-{step}-m{attempt}",
        model=run.profile.model,
        step=step,
        seen=len(state.messages),
        prefix=state.prefix,
        sampling=run.profile.sampling,
        traceparent=state.commands[name].traceparent,
        first=first_shown(state.messages, run.profile.memory, state.memory.first, state.memory.rate),
    )
    folding.emit("run", name, called)
    folding.effects.append(call_model(folding.state, run, called))


def call_model(state: Conversation, run: Run, called: ModelCalled) -> CallModel:
    """Make the effect of a `model.called`."""
    seen = prompt_of(state.messages, called.first, called.seen, state.memory, run.profile.memory)
    if run.refused:
        seen = (*seen, Message(role="user", content=f"(Your last answer was {run.refused}. Answer again.)"))
    place, about = (called.effect, "run", run.id, called.traceparent), state.memory.resource
    return CallModel(*place, called=called, profile=run.profile, messages=seen, resource=about)


def call_tool(state: Conversation, run: Run, effect: str, call: ToolCall) -> CallTool:
    """Make the effect of a `tool.called`."""
    binding = next(tool for tool in run.profile.tools if tool.name == call.name)
    called = ToolCalled(effect=effect, call=call, effect_class=binding.effect)
    trace = state.commands[run.id].traceparent
    return CallTool(
        effect,
        "run",
        run.id,
        trace,
        called=called,
        agent=run.profile.agent,
        notes=dict(state.notes),
        model=run.profile.model,
        processors=run.profile.processors,
    )


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
    known = {item.effect for item in run.pending}
    for index, call in enumerate(answer.tool_calls):
        effect = f"{run.id}-{run.step}-t{index}"
        if effect not in known:
            _after_wish(folding, run, effect, call)
    after_tool(folding, run)


def _after_wish(folding: Folding, run: Run, effect: str, call: ToolCall) -> None:
    """Call the tool that the model wants, ask whether it may be called, or tell the model why not."""
    tools = {tool.name: tool for tool in run.profile.tools}
    command = folding.state.commands[run.id].data
    if call.name not in tools:
        known = ", ".join(tools) or "none"
        refuse_tool(folding, run, effect, call, f"no tool named {call.name!r} (tools: {known})")
    elif not tools[call.name].approval:
        begin_tool(folding, run, effect, call)
    elif isinstance(command, RunAgent) and command.approvals == "refuse":
        message = f"{call.name!r} {NEEDS_PERSON}, which cannot be asked for here"
        refuse_tool(folding, run, effect, call, message)
    else:
        folding.emit("run", run.id, ApprovalRequested(effect=effect, call=call))


def begin_tool(folding: Folding, run: Run, effect: str, call: ToolCall) -> None:
    """Call a tool."""
    begun = call_tool(folding.state, run, effect, call)
    folding.emit("run", run.id, begun.called)
    folding.effects.append(begun)


def refuse_tool(folding: Folding, run: Run, effect: str, call: ToolCall, why: str) -> None:
    """Tell the model why its call comes to nothing."""
    folding.emit("run", run.id, ToolFailed(effect=effect, call_id=call.id, content=f"error: {why}"))


def waiting(state: Conversation) -> tuple[Pending, ...]:
    """List the tool calls of the active run that wait for approval."""
    run = state.runs.get(state.active or "")
    return () if run is None else tuple(item for item in run.pending if item.waits and item.result is None)


def after_tool(folding: Folding, run: Run) -> None:
    """Ask the model again once every result of the step is in."""
    run = folding.state.runs[run.id]
    done = run.answer is not None and len(run.pending) == len(run.answer.tool_calls)
    if done and all(item.result is not None for item in run.pending):
        ask_model(folding, run.id)


def break_off(folding: Folding, run: Run, problem: Problem) -> None:
    """End a run whatever it is doing: what it began has no further say."""
    for item in run.pending if run.id == folding.state.active else ():
        if item.result is not None:
            continue
        content = "error: the run was broken off"
        if item.waits:
            folding.emit("run", run.id, ToolFailed(effect=item.effect, call_id=item.call.id, content=content))
        else:
            content += f"; it is not known whether {item.call.name!r} took effect"
            folding.emit("run", run.id, ToolIndeterminate(effect=item.effect, call_id=item.call.id, content=content))
    end(folding, folding.state.runs[run.id], RunFailed(problem=problem, steps=run.step))


def end(folding: Folding, run: Run, event: RunFinished | RunFailed) -> None:
    """End the run and start the next in the queue, unless one goes on."""
    folding.emit("run", run.id, event)
    if folding.state.queue and folding.state.active is None:
        name = folding.state.queue[0]
        start(folding, folding.state.commands[name], folding.state.runs[name].profile)
