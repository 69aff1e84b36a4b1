"""The agent loop, pure: what a command or an effect's result leads to.

Model call, tool calls, model call, answer. Effect ids are structural (`<run>-<step>-m`, `<run>-<step>-t<index>`),
so that a re-run of the decision names the same effects whatever finished first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec.structs import replace

from actors.agent.conversation import BROKEN_OFF, Conversation, Pending, Run, evolve, incoming
from actors.runtime.machine import Answer, Asked, Decision, Effect, Emitted
from schemas.commands import Approve, Command, Deny, RunAgent
from schemas.context import Context
from schemas.messages import Message, ToolCall, misplaced_in
from schemas.runs import (
    ApprovalDenied,
    ApprovalGiven,
    ApprovalRequested,
    CommandAccepted,
    CommandRefused,
    Event,
    MemoryWritten,
    MessageAdded,
    ModelCalled,
    ModelFailed,
    ModelReturned,
    Problem,
    Profile,
    RunFailed,
    RunFinished,
    RunQueued,
    RunStarted,
    ToolCalled,
    ToolFailed,
    ToolReturned,
)


class CallModel(Effect, frozen=True, kw_only=True):
    """Ask the model to continue the conversation."""

    called: ModelCalled
    profile: Profile
    messages: tuple[Message, ...]


class CallTool(Effect, frozen=True, kw_only=True):
    """Run a tool."""

    called: ToolCalled
    agent: str
    notes: dict[str, str]


class ConversationMachine:
    """The `Machine` of agent threads."""

    def initial(self, tenant: str, thread: str) -> Conversation:
        """Return an empty thread."""
        return Conversation(tenant, thread)

    def evolve(self, state: Conversation, emitted: Emitted) -> Conversation:
        """Fold one fact."""
        return evolve(state, emitted)

    def answered(self, state: Conversation, command: str) -> Answer | None:
        """Say whether the command has been decided before."""
        if command in state.commands:
            return "accepted"
        return state.refused.get(command)

    def ask(self, state: Conversation, asked: Asked, context: Context) -> Decision:
        """Take a run on, queue it behind the active one, or refuse it; or settle whether a waiting tool may run."""
        command = asked.command
        if isinstance(command.data, Approve | Deny):
            return _settle(state, command, command.data)
        problem = asked.missing or _unfit(state, command) or _held_up(state, command)
        if problem is not None or asked.profile is None:
            problem = problem or Problem(kind="unknown_agent", message="no such agent", field="agent")
            return Decision([Emitted("thread", state.thread, CommandRefused(command=command, problem=problem))], [])
        folding = _Folding(state)
        folding.emit("thread", state.thread, CommandAccepted(command=command))
        profile = asked.profile
        if isinstance(command.data, RunAgent) and command.data.seed is None:
            profile = replace(profile, sampling=replace(profile.sampling, seed=context.seed))
        if state.active is not None:
            folding.emit("run", command.id, RunQueued(behind=state.active, profile=profile))
            return folding.decision()
        _start(folding, command, profile)
        return folding.decision()

    def follow(self, state: Conversation, result: Emitted, context: Context) -> Decision:
        """Go on with the run after a result."""
        run = state.runs[result.entity]
        folding = _Folding(state)
        match result.event:
            case ModelReturned() as answer:
                _after_model(folding, run, answer)
            case ModelFailed(problem=problem):
                _end(folding, run, RunFailed(problem=problem, steps=run.step))
            case ToolReturned(writes=writes):
                for write in writes:
                    folding.emit("thread", state.thread, MemoryWritten(topic=write.topic, text=write.text))
                _after_tool(folding, run)
            case _:
                _after_tool(folding, run)
        return folding.decision()

    def open_effects(self, state: Conversation) -> Sequence[Effect]:
        """List the active run's intentions without a result."""
        run = state.runs.get(state.active or "")
        if run is None:
            return []
        if run.asking is not None:
            return [_call_model(state, run, run.asking)]
        begun = [item for item in run.pending if item.result is None and not item.waits]
        calls = ((_call_tool(state, run, item.effect, item.call), item.attempts) for item in begun)
        return [replace(call, attempts=attempts) for call, attempts in calls]


class _Folding:
    """Collects events, folding each at once so that the next sees it."""

    def __init__(self, state: Conversation) -> None:
        self.state = state
        self.events: list[Emitted] = []
        self.effects: list[Effect] = []

    def emit(self, kind: str, entity: str, event: Event) -> None:
        emitted = Emitted(kind, entity, event)
        self.events.append(emitted)
        self.state = evolve(self.state, emitted)

    def decision(self) -> Decision:
        return Decision(self.events, self.effects)


def _unfit(state: Conversation, command: Command) -> Problem | None:
    data = command.data
    if not isinstance(data, RunAgent):
        return Problem(kind="invalid", message=f"an agent cannot {command.verb!r}", field="verb")
    messages = incoming(command)
    if any(message.role == "system" for message in messages):
        message = "an agent has its own instructions: leave system messages out"
        return Problem(kind="invalid", message=message, field="messages")
    if not messages or messages[-1].role not in {"user", "tool"}:
        return Problem(kind="invalid", message="give `text`, or `messages` that end with the user's", field="messages")
    misplaced = misplaced_in(messages)
    if misplaced is not None:
        message = f"{misplaced}: a `tool` message answers a call of the assistant's before it, each call once"
        return Problem(kind="invalid", message=message, field=misplaced)
    if data.thread == "existing" and not state.commands:
        message = f"thread {state.thread!r} does not exist: leave the thread out to start a new one"
        return Problem(kind="unknown_thread", message=message, field="thread")
    return None


def _held_up(state: Conversation, command: Command) -> Problem | None:
    """Refuse a client that can ask nobody a place in the queue behind a call that waits for somebody."""
    held = waiting(state)
    if not held or not isinstance(command.data, RunAgent) or command.data.approvals == "ask":
        return None
    message = (
        f"thread {state.thread!r} waits for a person to approve {held[0].call.name!r}: "
        f"settle that (`ostinato chat --thread {state.thread}`), then ask again"
    )
    return Problem(kind="invalid", message=message, field="thread")


def _start(folding: _Folding, command: Command, profile: Profile) -> None:
    for message in incoming(command):
        folding.emit("thread", folding.state.thread, MessageAdded(message=message))
    folding.emit("run", command.id, RunStarted(profile=profile))
    _ask_model(folding, command.id)


def _ask_model(folding: _Folding, name: str) -> None:
    state = folding.state
    run = state.runs[name]
    step = run.step + 1
    called = ModelCalled(
        effect=f"{name}-{step}-m",
        model=run.profile.model,
        step=step,
        seen=len(state.messages),
        prefix=state.prefix,
        sampling=run.profile.sampling,
        traceparent=state.commands[name].traceparent,
    )
    folding.emit("run", name, called)
    folding.effects.append(_call_model(folding.state, run, called))


def _call_model(state: Conversation, run: Run, called: ModelCalled) -> CallModel:
    seen = state.messages[: called.seen]
    return CallModel(
        called.effect, "run", run.id, called.traceparent, called=called, profile=run.profile, messages=seen
    )


def _call_tool(state: Conversation, run: Run, effect: str, call: ToolCall) -> CallTool:
    binding = next(tool for tool in run.profile.tools if tool.name == call.name)
    called = ToolCalled(effect=effect, call=call, effect_class=binding.effect)
    trace = state.commands[run.id].traceparent
    agent, notes = run.profile.agent, dict(state.notes)
    return CallTool(effect, "run", run.id, trace, called=called, agent=agent, notes=notes)


def _after_model(folding: _Folding, run: Run, answer: ModelReturned) -> None:
    if answer.finish_reason in BROKEN_OFF:
        message = f"the model's answer was broken off ({answer.finish_reason})"
        _end(folding, run, RunFailed(problem=Problem(kind="engine", message=message), steps=run.step))
        return
    if not answer.tool_calls:
        reason: Literal["stop", "length"] = "length" if answer.finish_reason == "length" else "stop"
        finished = RunFinished(text=answer.text, steps=run.step, usage=run.usage, finish_reason=reason)
        _end(folding, run, finished)
        return
    if run.step >= run.profile.max_steps:
        message = f"the agent still wanted tools after {run.step} model calls (max_steps)"
        _end(folding, run, RunFailed(problem=Problem(kind="max_steps", message=message), steps=run.step))
        return
    for index, call in enumerate(answer.tool_calls):
        _after_wish(folding, run, f"{run.id}-{run.step}-t{index}", call)
    _after_tool(folding, run)


def _after_wish(folding: _Folding, run: Run, effect: str, call: ToolCall) -> None:
    """Call the tool that the model wants, ask whether it may be called, or tell the model why not."""
    tools = {tool.name: tool for tool in run.profile.tools}
    command = folding.state.commands[run.id].data
    if call.name not in tools:
        known = ", ".join(tools) or "none"
        _refuse_tool(folding, run, effect, call, f"no tool named {call.name!r} (tools: {known})")
    elif not tools[call.name].approval:
        _begin_tool(folding, run, effect, call)
    elif isinstance(command, RunAgent) and command.approvals == "refuse":
        message = f"{call.name!r} needs a person's approval, which cannot be asked for here"
        _refuse_tool(folding, run, effect, call, message)
    else:
        folding.emit("run", run.id, ApprovalRequested(effect=effect, call=call))


def _begin_tool(folding: _Folding, run: Run, effect: str, call: ToolCall) -> None:
    begun = _call_tool(folding.state, run, effect, call)
    folding.emit("run", run.id, begun.called)
    folding.effects.append(begun)


def _refuse_tool(folding: _Folding, run: Run, effect: str, call: ToolCall, why: str) -> None:
    folding.emit("run", run.id, ToolFailed(effect=effect, call_id=call.id, content=f"error: {why}"))


def waiting(state: Conversation) -> tuple[Pending, ...]:
    """List the tool calls of the active run that wait for approval."""
    run = state.runs.get(state.active or "")
    return () if run is None else tuple(item for item in run.pending if item.waits and item.result is None)


def _settle(state: Conversation, command: Command, data: Approve | Deny) -> Decision:
    """Let the call run, or tell the model that it may not; the first answer counts."""
    item = next((item for item in waiting(state) if item.effect == data.effect), None)
    if item is None or state.active is None:
        names = ", ".join(repr(item.effect) for item in waiting(state)) or "none"
        message = f"no tool call {data.effect!r} waits for approval in thread {state.thread!r} (waiting: {names})"
        problem = Problem(kind="invalid", message=message, field="effect")
        return Decision([Emitted("thread", state.thread, CommandRefused(command=command, problem=problem))], [])
    run = state.runs[state.active]
    folding = _Folding(state)
    folding.emit("thread", state.thread, CommandAccepted(command=command))
    match data:
        case Approve():
            folding.emit("run", run.id, ApprovalGiven(effect=item.effect, by=command.source))
            _begin_tool(folding, run, item.effect, item.call)
        case Deny(reason=reason):
            folding.emit("run", run.id, ApprovalDenied(effect=item.effect, by=command.source, reason=reason))
            why = f"the call of {item.call.name!r} was not approved" + (f": {reason}" if reason else "")
            _refuse_tool(folding, run, item.effect, item.call, why)
            _after_tool(folding, run)
    return folding.decision()


def _after_tool(folding: _Folding, run: Run) -> None:
    """Ask the model again once every result of the step is in."""
    run = folding.state.runs[run.id]
    done = run.answer is not None and len(run.pending) == len(run.answer.tool_calls)
    if done and all(item.result is not None for item in run.pending):
        _ask_model(folding, run.id)


def _end(folding: _Folding, run: Run, event: RunFinished | RunFailed) -> None:
    """End the run and start the next in the queue."""
    folding.emit("run", run.id, event)
    if folding.state.queue:
        name = folding.state.queue[0]
        _start(folding, folding.state.commands[name], folding.state.runs[name].profile)
