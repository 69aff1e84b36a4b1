"""The agent loop, pure: what a command or an effect's result leads to.

Model call, tool calls, model call, answer. Effect ids are structural (`<run>-<step>-m`, `<run>-<step>-t<index>`; where
the model is asked again, `<run>-<step>-r<attempt>` and `<run>-<step>-m<attempt>`), so that a re-run of the decision
names the same effects whatever finished first.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from actors.agent.condensing import after_condensing, begin_condensing, condense
from actors.agent.conversation import Conversation, evolve, incoming
from actors.agent.delegation import child_end
from actors.agent.erasing import erase_thread
from actors.agent.folding import Folding
from actors.agent.fork import forked
from actors.agent.goals import after_judge, go_on_with_goal, judge_goal, steer_goal
from actors.agent.orders import granted, mode_of, ordered, ungrantable
from actors.agent.retries import after_failure, await_retry
from actors.agent.run import Pending, Run, Waits
from actors.agent.standing import named_by
from actors.agent.tasks import cancelled, run_tasks, told_of_task
from actors.agent.threads import Managing, gone, managed, misowned, noted, owned
from actors.agent.turns import (
    after_model,
    after_tool,
    ask_model,
    await_deadline,
    break_off,
    call_model,
    end,
    end_child,
    failed,
    prepare_step,
    replace_active,
    start,
    stop,
    tell_end,
)
from actors.agent.wishes import begin_tool, call_tool, can_ask, go_on_with, refuse_tool, waiting
from actors.memory.working import written
from actors.request_context import too_large
from actors.runtime.machine import Answer, Asked, Decision, Effect, Emitted
from schemas.commands import AbortRun, Approve, CancelTask, Command, Deny, PostResult, Resume, RunAgent
from schemas.context import Context
from schemas.delegation import ChildEnded
from schemas.forks import Fork
from schemas.hooks import HooksTold, StepPrepared
from schemas.memory import CondensingEnded, CreateThread, DeleteThread, Observe, Remember, RenameThread, ThreadErased
from schemas.messages import Message, misplaced_in
from schemas.runs import (
    NEEDS_PERSON,
    ApprovalDenied,
    ApprovalGiven,
    CommandAccepted,
    CommandRefused,
    DeadlinePassed,
    Event,
    ModelFailed,
    ModelReturned,
    Problem,
    RetryDue,
    RunQueued,
    ToolFailed,
    ToolReturned,
)
from schemas.standing import GoalJudged, GrantTool, SetMode, StandingCommand, WithdrawGrant
from schemas.tasks import TaskEnded
from schemas.waits import ToolContinued, ToolSuspended

Settling = Approve | Deny | Resume | PostResult
_KINDS: dict[type[Settling], Waits] = {Approve: "approval", Deny: "approval", Resume: "data", PostResult: "caller"}
"""What each of them answers to."""


MOST_DEPTH = 8
"""Runs that are one another's calls: who calls itself comes to an end."""


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
            case Approve() | Deny() | Resume() | PostResult() as answer:
                return _settle(state, command, answer)
            case AbortRun() | CancelTask() as ending:
                return _ended(state, command, ending)
            case Fork() as fork:
                return forked(state, command, fork, asked.missing)
            case data if isinstance(data, Managing | StandingCommand):
                return _of_thread(state, asked, data, context)
            case _:
                return self._taken_on(state, asked, context)

    def _taken_on(self, state: Conversation, asked: Asked, context: Context) -> Decision:
        command = asked.command
        problem = asked.missing or _unfit(state, asked) or _held_up(state, command)
        if problem is not None or asked.profile is None:
            problem = problem or Problem(kind="unknown_agent", message="no such agent", field="agent")
            return Decision([Emitted("thread", state.thread, CommandRefused(command=command, problem=problem))], [])
        folding = Folding(state)
        folding.emit("thread", state.thread, CommandAccepted(command=command))
        if isinstance(command.data, RunAgent):
            owned(folding, command.data)
            noted(folding, command.data)
            mode_of(folding, command, asked.profile)
        profile = asked.profile
        if isinstance(command.data, RunAgent) and command.data.seed is None:
            profile = replace(profile, sampling=replace(profile.sampling, seed=context.seed))
        if state.active is not None and isinstance(command.data, RunAgent) and command.data.when_busy == "replace":
            replace_active(folding, state.runs[state.active], command, profile)
            return folding.decision()
        if state.active is not None:
            joins = isinstance(command.data, RunAgent) and command.data.when_busy == "steer"
            folding.emit("run", command.id, RunQueued(behind=state.active, profile=profile, joins=joins))
            return folding.decision()
        start(folding, command, profile)
        return folding.decision()

    def follow(self, state: Conversation, result: Emitted, context: Context) -> Decision:
        """Go on with the run after a result."""
        folding = Folding(state)
        match result.event:
            case ChildEnded() | HooksTold() | ThreadErased():
                pass  # their run is over, and perhaps its whole thread
            case TaskEnded() as ended:
                told_of_task(folding, ended)
            case CondensingEnded() as condensed:
                after_condensing(folding, condensed)
            case GoalJudged() as judged:
                after_judge(folding, judged)
            case event:
                self._go_on(folding, state.runs[result.entity], event, context)
        go_on_with_goal(folding)
        return folding.decision()

    def _go_on(self, folding: Folding, run: Run, result: Event, context: Context) -> None:
        match result:
            case ModelReturned() as answer:
                begin_condensing(folding, run, answer, context)
                after_model(folding, run, answer)
            case ModelFailed(problem=problem):
                after_failure(folding, run, problem, context)
            case RetryDue():
                ask_model(folding, run.id)
            case DeadlinePassed():
                break_off(folding, run, Problem(kind="timeout", message="the run's deadline has passed"))
            case ToolReturned(writes=writes):
                for write in writes:
                    by = named_by(run.profile)
                    folding.emit("thread", folding.state.thread, written(folding.state.memory, write, agent=by))
                after_tool(folding, run)
            case ToolSuspended() as suspended:
                _suspended(folding, run, suspended)
            case StepPrepared() as prepared:
                _prepared(folding, run, prepared)
            case _:
                after_tool(folding, run)

    def open_effects(self, state: Conversation) -> Sequence[Effect]:
        """List the active run's intentions without a result."""
        told: list[Effect] = [*run_tasks(state), *condense(state)]
        told += [*(tell_end(state, name) for name in state.untold), *(end_child(state, one) for one in state.orphans)]
        if state.memory.deleted and not state.memory.erased:
            told.append(erase_thread(state.thread))
        told += judge_goal(state)
        run = state.runs.get(state.active or "")
        if run is None:
            return told
        waited: list[Effect] = [*told, *await_deadline(state, run.id)]
        if run.retry is not None:
            return [*waited, *await_retry(state, run.id)]
        if run.asking is not None:
            return [*waited, call_model(state, run, run.asking)]
        if run.opened is not None:
            return [*waited, *prepare_step(state, run.id)]
        begun = [item for item in run.pending if item.result is None and item.waits is None]
        return [*waited, *(call_tool(state, run, item.under_way, item.call, item) for item in begun)]


def _unfit(state: Conversation, asked: Asked) -> Problem | None:
    data = asked.command.data
    if not isinstance(data, RunAgent):
        return Problem(kind="invalid", message=f"an agent cannot {asked.command.verb!r}", field="verb")
    found = _unfit_messages(incoming(asked.command)) or _unfit_request(state, data) or misowned(state, data)
    return found or _ended_before(state, asked, data)


def _unfit_messages(messages: Sequence[Message]) -> Problem | None:
    if any(message.role == "system" for message in messages):
        message = "an agent has its own instructions: leave system messages out"
        return Problem(kind="invalid", message=message, field="messages")
    if not messages or messages[-1].role not in {"user", "tool"}:
        return Problem(kind="invalid", message="give `text`, or `messages` that end with the user's", field="messages")
    misplaced = misplaced_in(messages)
    if misplaced is not None:
        message = f"{misplaced}: a `tool` message answers a call of the assistant's before it, each call once"
        return Problem(kind="invalid", message=message, field=misplaced)
    return None


def _unfit_request(state: Conversation, data: RunAgent) -> Problem | None:
    if too_large(data.context):
        return Problem(kind="invalid", message=too_large(data.context), field="context")
    if data.parent is not None and data.parent.depth > MOST_DEPTH:
        message = f"parent.depth: runs call one another {data.parent.depth} deep, at most {MOST_DEPTH} may"
        return Problem(kind="invalid", message=message, field="parent")
    if data.thread == "existing" and not state.commands:
        message = f"thread {state.thread!r} does not exist: leave the thread out to start a new one"
        return Problem(kind="unknown_thread", message=message, field="thread")
    return None


def _ended_before(state: Conversation, asked: Asked, data: RunAgent) -> Problem | None:
    """Refuse a run that was ended before it came: whoever asked for it may have stood still, and sends it late."""
    if data.parent is None or child_end(state.thread) not in state.refused:
        return None
    if asked.profile is not None and asked.profile.edition <= 1:
        return None  # it was taken on once
    return Problem(kind="aborted", message=f"run {data.parent.run!r} that asks for it was ended before")


def _held_up(state: Conversation, command: Command) -> Problem | None:
    """Refuse a client that can ask nobody a place in the queue behind a call that waits for somebody."""
    held = waiting(state)
    if not held or not isinstance(command.data, RunAgent) or command.data.approvals == "ask":
        return None
    if command.data.when_busy == "replace":
        return None
    for_whom = {"approval": "a person to approve", "data": "somebody's data for", "caller": "the result of"}
    message = (
        f"thread {state.thread!r} waits for {for_whom[held[0].waits or 'approval']} {held[0].call.name!r}: "
        f"settle that (`ostinato chat --thread {state.thread}`), then ask again"
    )
    return Problem(kind="invalid", message=message, field="thread")


def _of_thread(state: Conversation, asked: Asked, data: Managing | StandingCommand, context: Context) -> Decision:
    match data:
        case CreateThread() | RenameThread() | DeleteThread() | Remember() | Observe():
            return managed(state, asked.command, data)
        case SetMode() | GrantTool() | WithdrawGrant():
            return ordered(state, asked.command, data)
        case _:
            return steer_goal(state, asked, data, context)


def _ended(state: Conversation, command: Command, data: AbortRun | CancelTask) -> Decision:
    if isinstance(data, AbortRun):
        return _abort(state, command, data)
    folding = cancelled(state, command, data)
    go_on_with_goal(folding)
    return folding.decision()


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
    go_on_with_goal(folding)
    return folding.decision()


def _settle(state: Conversation, command: Command, data: Settling) -> Decision:
    """Give a call that waits what it waits for; the first answer counts."""
    kind = _KINDS[type(data)]
    item = next((item for item in waiting(state, kind) if _named(item) == data.effect), None)
    problem = _misses(state, data, kind) if item is None else _unfit_answer(state, data, item)
    if problem is not None or item is None or state.active is None:
        assert problem is not None
        return Decision([Emitted("thread", state.thread, CommandRefused(command=command, problem=problem))], [])
    run = state.runs[state.active]
    folding = Folding(state)
    folding.emit("thread", state.thread, CommandAccepted(command=command))
    match data:
        case Approve(always=always):
            folding.emit("run", run.id, ApprovalGiven(effect=item.effect, by=command.source))
            if always:
                folding.emit("thread", state.thread, granted(run.profile, item, command))
            begin_tool(folding, run, item.effect, item.call)
            after_tool(folding, run)
        case Deny(reason=reason):
            folding.emit("run", run.id, ApprovalDenied(effect=item.effect, by=command.source, reason=reason))
            why = f"the call of {item.call.name!r} was not approved" + (f": {reason}" if reason else "")
            refuse_tool(folding, run, item.effect, item.call, why)
            after_tool(folding, run)
        case Resume(answer=given):
            folding.emit("run", run.id, ToolContinued(effect=data.effect, by=command.source, answer=given))
            run = folding.state.runs[run.id]
            go_on_with(folding, run, next(found for found in run.pending if found.effect == item.effect))
        case PostResult(content=content, error=error):
            made = (item.effect, item.call.id)
            folding.emit("run", run.id, ToolFailed(*made, f"error: {error}") if error else ToolReturned(*made, content))
            after_tool(folding, run)
    go_on_with_goal(folding)
    return folding.decision()


def _named(item: Pending) -> str:
    """Name what is waited for: a tool that asks twice waits for two things."""
    return item.under_way if item.waits == "data" else item.effect


def _misses(state: Conversation, data: Settling, kind: Waits) -> Problem:
    """Say that nothing of the kind waits under that name, and what does."""
    names = ", ".join(repr(_named(item)) for item in waiting(state, kind)) or "none"
    for_what = {"approval": "approval", "data": "data", "caller": "a result"}[kind]
    message = f"no tool call {data.effect!r} waits for {for_what} in thread {state.thread!r} (waiting: {names})"
    return Problem(kind="invalid", message=message, field="effect")


def _unfit_answer(state: Conversation, data: Settling, item: Pending) -> Problem | None:
    return _other_arguments(data, item) or ungrantable(state, data, item)


def _other_arguments(data: Settling, item: Pending) -> Problem | None:
    """Refuse an agreement to something else than what is waited with."""
    if not isinstance(data, Approve) or data.arguments in {None, item.call.arguments}:
        return None
    message = (
        f"arguments: {item.effect!r} waits with {item.call.arguments}, not with these: agree to those, "
        "or `deny` with a reason, and the model may call again"
    )
    return Problem(kind="invalid", message=message, field="arguments")


def _suspended(folding: Folding, run: Run, event: ToolSuspended) -> None:
    """Wait for data, or tell the model that nobody can be asked for it."""
    item = next(item for item in run.pending if item.asked == event)
    if not can_ask(folding.state, run.id):
        message = f"{item.call.name!r} {NEEDS_PERSON}, which cannot be asked for here"
        refuse_tool(folding, run, item.effect, item.call, message)
    after_tool(folding, run)


def _prepared(folding: Folding, run: Run, event: StepPrepared) -> None:
    """Begin the step as the agent's functions want it, or end the run."""
    if event.failure:
        problem = Problem(kind="definition", message=event.failure)
        end(folding, run, failed(run, problem))
    elif event.stop:
        stop(folding, run, event.stop)
    else:
        ask_model(folding, run.id)
