"""The agent loop, pure: what a command or an effect's result leads to.

Model call, tool calls, model call, answer. Effect ids are structural (`<run>-<step>-m`, `<run>-<step>-t<index>`; where
the model is asked again, `<run>-<step>-r<attempt>` and `<run>-<step>-m<attempt>`), so that a re-run of the decision
names the same effects whatever finished first.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from actors.agent.conversation import Conversation, evolve, incoming
from actors.agent.fork import forked
from actors.agent.retries import after_failure, await_retry
from actors.agent.threads import gone, managed, misowned, owned
from actors.agent.turns import (
    Folding,
    after_model,
    after_tool,
    ask_model,
    await_deadline,
    begin_tool,
    break_off,
    call_model,
    call_tool,
    refuse_tool,
    start,
    waiting,
)
from actors.memory.working import written
from actors.runtime.machine import Answer, Asked, Decision, Effect, Emitted
from schemas.commands import AbortRun, Approve, Command, Deny, Fork, RunAgent
from schemas.context import Context
from schemas.memory import CreateThread, DeleteThread, Remember, RenameThread
from schemas.messages import misplaced_in
from schemas.runs import (
    ApprovalDenied,
    ApprovalGiven,
    CommandAccepted,
    CommandRefused,
    DeadlinePassed,
    ModelFailed,
    ModelReturned,
    Problem,
    RetryDue,
    RunQueued,
    ToolReturned,
)


class ConversationMachine:
    """The `Machine` of agent threads."""

    def shape(self) -> type[Conversation]:
        """Return the state's type."""
        return Conversation

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
        """Take a run on, queue it, refuse it or end it; settle whether a waiting tool may run; or begin as a fork."""
        command = asked.command
        if state.memory.deleted:
            return gone(state, command)
        match command.data:
            case Approve() | Deny() as answer:
                return _settle(state, command, answer)
            case AbortRun() as abort:
                return _abort(state, command, abort)
            case Fork() as fork:
                return forked(state, command, fork, asked.missing)
            case CreateThread() | RenameThread() | DeleteThread() | Remember() as managing:
                return managed(state, command, managing)
            case _:
                return self._taken_on(state, asked, context)

    def _taken_on(self, state: Conversation, asked: Asked, context: Context) -> Decision:
        command = asked.command
        problem = asked.missing or _unfit(state, command) or _held_up(state, command)
        if problem is not None or asked.profile is None:
            problem = problem or Problem(kind="unknown_agent", message="no such agent", field="agent")
            return Decision([Emitted("thread", state.thread, CommandRefused(command=command, problem=problem))], [])
        folding = Folding(state)
        folding.emit("thread", state.thread, CommandAccepted(command=command))
        if isinstance(command.data, RunAgent):
            owned(folding, command.data)
        profile = asked.profile
        if isinstance(command.data, RunAgent) and command.data.seed is None:
            profile = replace(profile, sampling=replace(profile.sampling, seed=context.seed))
        if state.active is not None:
            folding.emit("run", command.id, RunQueued(behind=state.active, profile=profile))
            return folding.decision()
        start(folding, command, profile)
        return folding.decision()

    def follow(self, state: Conversation, result: Emitted, context: Context) -> Decision:
        """Go on with the run after a result."""
        run = state.runs[result.entity]
        folding = Folding(state)
        match result.event:
            case ModelReturned() as answer:
                after_model(folding, run, answer)
            case ModelFailed(problem=problem):
                after_failure(folding, run, problem, context)
            case RetryDue():
                ask_model(folding, run.id)
            case DeadlinePassed():
                break_off(folding, run, Problem(kind="timeout", message="the run's deadline has passed"))
            case ToolReturned(writes=writes):
                for write in writes:
                    folding.emit("thread", state.thread, written(folding.state.memory, write))
                after_tool(folding, run)
            case _:
                after_tool(folding, run)
        return folding.decision()

    def open_effects(self, state: Conversation) -> Sequence[Effect]:
        """List the active run's intentions without a result."""
        run = state.runs.get(state.active or "")
        if run is None:
            return []
        deadline = await_deadline(state, run.id)
        if run.retry is not None:
            return [*deadline, *await_retry(state, run.id)]
        if run.asking is not None:
            return [*deadline, call_model(state, run, run.asking)]
        begun = [item for item in run.pending if item.result is None and not item.waits]
        calls = ((call_tool(state, run, item.effect, item.call), item.attempts) for item in begun)
        return [*deadline, *(replace(call, attempts=attempts) for call, attempts in calls)]


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
    return misowned(state, data)


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


def _abort(state: Conversation, command: Command, data: AbortRun) -> Decision:
    """End a run: what it began has no further say, and the next in the queue begins."""
    under_way = [name for name in (state.active, *state.queue) if name is not None]
    name = data.run or state.active or ""
    if name not in under_way:
        names = ", ".join(map(repr, under_way)) or "none"
        message = f"run {name!r} is not under way in thread {state.thread!r} (under way: {names})"
        problem = Problem(kind="invalid", message=message, field="run")
        return Decision([Emitted("thread", state.thread, CommandRefused(command=command, problem=problem))], [])
    run = state.runs[name]
    folding = Folding(state)
    folding.emit("thread", state.thread, CommandAccepted(command=command))
    because = f": {data.reason}" if data.reason else ""
    problem = Problem(kind="aborted", message=f"the run was aborted by {command.source or 'a client'}{because}")
    break_off(folding, run, problem)
    return folding.decision()


def _settle(state: Conversation, command: Command, data: Approve | Deny) -> Decision:
    """Let the call run, or tell the model that it may not; the first answer counts."""
    item = next((item for item in waiting(state) if item.effect == data.effect), None)
    if item is None or state.active is None:
        names = ", ".join(repr(item.effect) for item in waiting(state)) or "none"
        message = f"no tool call {data.effect!r} waits for approval in thread {state.thread!r} (waiting: {names})"
        problem = Problem(kind="invalid", message=message, field="effect")
        return Decision([Emitted("thread", state.thread, CommandRefused(command=command, problem=problem))], [])
    run = state.runs[state.active]
    folding = Folding(state)
    folding.emit("thread", state.thread, CommandAccepted(command=command))
    match data:
        case Approve():
            folding.emit("run", run.id, ApprovalGiven(effect=item.effect, by=command.source))
            begin_tool(folding, run, item.effect, item.call)
        case Deny(reason=reason):
            folding.emit("run", run.id, ApprovalDenied(effect=item.effect, by=command.source, reason=reason))
            why = f"the call of {item.call.name!r} was not approved" + (f": {reason}" if reason else "")
            refuse_tool(folding, run, item.effect, item.call, why)
            after_tool(folding, run)
    return folding.decision()
