"""The turns of a run, pure: what is emitted and begun when it starts, asks, has an answer, calls tools and ends.

What the loop does after each input, and what a fork does to go on, is put together from these.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec.structs import replace

from actors.agent.conversation import Conversation, incoming
from actors.agent.effects import AwaitDeadline, CallModel, EndChild, PrepareStep, TellEnd
from actors.agent.folding import Folding, context_of, parent_of
from actors.agent.run import Pending, Run
from actors.agent.wishes import call_wished, refuse_tool
from actors.memory.prompt import prompt_of, shown_from
from schemas.commands import Command
from schemas.delegation import ChildDisowned, RunHandedOver, RunJoined
from schemas.generation import BROKEN_OFF
from schemas.hooks import StepOpened
from schemas.profiles import Profile
from schemas.runs import (
    MessageAdded,
    ModelCalled,
    ModelReturned,
    Problem,
    RunFailed,
    RunFinished,
    RunStarted,
    ToolFailed,
    ToolIndeterminate,
)


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
    """Begin a step: with whoever has the thread by now and what was said meanwhile, and ask the agent's functions about
    it where there are any, else the model."""
    _hand_over(folding, name)
    _take_along(folding, name)
    run = folding.state.runs[name]
    if not run.profile.prepares:
        ask_model(folding, name)
        return
    step = run.step + 1 if run.retry is None else run.step
    folding.emit("run", name, StepOpened(effect=f"{name}-{step}-p", step=step))
    folding.effects += prepare_step(folding.state, name)


def _hand_over(folding: Folding, name: str) -> None:
    run = folding.state.runs[name]
    if run.handover is not None:
        to = run.handover.profile.agent
        folding.emit("run", name, RunHandedOver(effect=run.handover.effect, agent=to, by=run.profile.agent))


def _take_along(folding: Folding, name: str) -> None:
    """Add what runs say that wait to be taken along."""
    for joining in folding.state.joining:
        for message in incoming(folding.state.commands[joining]):
            folding.emit("thread", folding.state.thread, MessageAdded(message=message))
        folding.emit("run", joining, RunJoined(into=name, step=folding.state.runs[name].step + 1))


def prepare_step(state: Conversation, name: str) -> list[PrepareStep]:
    """Make the effect of a `step.opened`, if the run is there."""
    run = state.runs[name]
    if run.opened is None:
        return []
    place, context = (run.opened.effect, "run", name, state.commands[name].traceparent), context_of(state, name)
    told: dict[str, Any] = {"messages": state.messages, "notes": dict(state.notes), "context": context}
    return [PrepareStep(*place, step=run.opened.step, run=run, parent=parent_of(state, name), **told)]


def tell_end(state: Conversation, name: str) -> TellEnd:
    """Make the effect of an observed run's end."""
    run = state.runs[name]
    assert run.ended is not None
    place, context = (f"{name}-h", "run", name, state.commands[name].traceparent), context_of(state, name)
    told: dict[str, Any] = {"messages": state.messages, "notes": dict(state.notes), "context": context}
    return TellEnd(*place, step=run.step + 1, run=run, ended=run.ended, **told)


def ask_model(folding: Folding, name: str) -> None:
    """Ask the run's model to go on, or what it was asked already."""
    state = folding.state
    run = state.runs[name]
    if run.retry is None:
        run = replace(run, mode=state.standing.mode_of(run.profile.agent))
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
    folding.effects.append(call_model(folding.state, folding.state.runs[name], called))


def call_model(state: Conversation, run: Run, called: ModelCalled) -> CallModel:
    """Make the effect of a `model.called`."""
    seen = prompt_of(state.messages, called.first, called.seen, state.memory, run.profile.memory, run.refused)
    place, about = (called.effect, "run", run.id, called.traceparent), context_of(state, run.id)
    told: dict[str, Any] = {
        "messages": seen,
        "said": state.messages[called.first : called.seen],
        "memory": state.memory,
        "parent": parent_of(state, run.id),
    }
    return CallModel(*place, called=called, profile=run.effective, context=about, **told)


def after_model(folding: Folding, run: Run, answer: ModelReturned) -> None:
    """Do what the model's answer asks for; of its tool calls, those that nothing is known of yet."""
    if answer.finish_reason in BROKEN_OFF:
        message = f"the model's answer was broken off ({answer.finish_reason})"
        end(folding, run, failed(run, Problem(kind="engine", message=message)))
        return
    if not answer.tool_calls:
        if folding.state.joining and run.step < run.profile.max_steps and not _stopping(run):
            next_step(folding, run.id)
            return
        reason: Literal["stop", "length"] = "length" if answer.finish_reason == "length" else "stop"
        end(folding, run, finished(run, answer.text, finish_reason=reason))
        return
    if run.step >= run.profile.max_steps:
        message = f"the agent still wanted tools after {run.step} model calls (max_steps)"
        end(folding, run, failed(run, Problem(kind="max_steps", message=message)))
        return
    call_wished(folding, run.id)
    after_tool(folding, run)


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
    if 0 < run.profile.most_tokens <= used:
        return "tokens"
    if run.profile.most_cost and run.cost is None:
        return "cost unknown"  # what cannot be counted must not go on as if it were nothing
    return "cost" if 0 < run.profile.most_cost <= (run.cost or 0.0) else ""


def stop(folding: Folding, run: Run, reason: str) -> None:
    """End a run with what its model said last."""
    text = "" if run.answer is None else run.answer.text
    end(folding, run, finished(run, text, stopped_by=reason))


def finished(run: Run, text: str, **fields: Any) -> RunFinished:
    """Make the last word of a run, with what it took."""
    cost = run.cost if run.profile.edition else None
    return RunFinished(text=text, steps=run.step, usage=run.usage, cost=cost, **fields)


def failed(run: Run, problem: Problem) -> RunFailed:
    """Make the end of a run without an answer, with what it took."""
    if not run.profile.edition:
        return RunFailed(problem=problem, steps=run.step)
    return RunFailed(problem=problem, steps=run.step, usage=run.usage, cost=run.cost)


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
            _disown(folding, run, item)
    if run.id == folding.state.active and run.answer is not None:
        known = {item.effect for item in run.pending}
        wished = ((f"{run.id}-{run.step}-t{index}", call) for index, call in enumerate(run.answer.tool_calls))
        for effect, call in wished:
            if known and effect not in known:
                refuse_tool(folding, run, effect, call, "the run was broken off")
    run = folding.state.runs[run.id]
    end(folding, run, failed(run, problem))


def _disown(folding: Folding, run: Run, item: Pending) -> None:
    """End another agent's run along with the one that asked for it, whoever owns the thread by then."""
    places = {tool.name: tool.place for tool in run.profile.tools}
    if run.profile.edition and places.get(item.call.name) == "agent" and item.waits is None:
        disown(folding, run.id, item.effect)


def disown(folding: Folding, name: str, call: str) -> None:
    """Have another agent's run, which a call is, ended."""
    effect = f"{call}x"
    folding.emit("run", name, ChildDisowned(effect=effect))
    folding.effects.append(end_child(folding.state, effect))


def end_child(state: Conversation, effect: str) -> EndChild:
    """Make the effect of a `child.disowned`."""
    call = effect.removesuffix("x")
    run = call.rsplit("-", 2)[0]
    return EndChild(effect, "run", run, state.commands[run].traceparent, call=call)


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
