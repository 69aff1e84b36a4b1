"""The state of a thread and its runs, as a fold over their events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, assert_never, get_args

import msgspec
from msgspec.structs import replace

from actors.agent.run import Handover, Pending, Run, call_of, called, changed, in_mode, index_of, with_call
from actors.agent.standing import Standing, accepted, began, ended, parted, stood
from actors.agent.task import Task, after_task, again
from actors.memory.state import Memory, MemoryEvent, asked, begun, forgotten, measured, refusal, remembered
from actors.runtime.machine import Emitted
from schemas import codec
from schemas.commands import Command, RunAgent
from schemas.delegation import ChildDisowned, ChildEnded, RunHandedOver, RunJoined
from schemas.generation import BROKEN_OFF
from schemas.hooks import HooksTold, StepOpened, StepPrepared
from schemas.messages import Message, Usage, added
from schemas.profiles import Profile
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
    OwnershipTaken,
    Problem,
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
    ToolResult,
    ToolResumed,
    ToolReturned,
)
from schemas.standing import StandingEvent
from schemas.tasks import TaskEvent
from schemas.waits import ToolContinued, ToolHandedOver, ToolSuspended

ThreadEvent = CommandAccepted | CommandRefused | MessageAdded | MemoryWritten | OwnershipTaken | ThreadForked
RunEvent = RunQueued | RunStarted | DeadlinePassed | RunFinished | RunFailed | HooksTold
AmongEvent = RunJoined | RunHandedOver | ChildDisowned | ChildEnded
ModelEvent = ModelCalled | ModelReturned | ModelFailed | RetryScheduled | RetryDue
StepEvent = StepOpened | StepPrepared
ToolEvent = ApprovalGiven | ApprovalDenied | ToolCalled | ToolResumed | ToolResult
WaitEvent = ApprovalRequested | ToolHandedOver | ToolSuspended | ToolContinued


class Conversation(msgspec.Struct, frozen=True):
    """A thread: what was said, what is remembered, which runs there are."""

    tenant: str
    thread: str
    messages: tuple[Message, ...] = ()
    prefix: str = ""
    """Chained hash over `messages`."""
    notes: Mapping[str, str] = {}
    commands: Mapping[str, Command] = {}
    refused: Mapping[str, Problem] = {}
    runs: Mapping[str, Run] = {}
    active: str | None = None
    queue: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    """Runs whose end is still to be told to their observers."""
    memory: Memory = Memory()
    orphans: tuple[str, ...] = ()
    """Effects by which other agents' runs that nobody waits for any more are still to be ended."""
    tasks: Mapping[str, Task] = {}
    """Tool calls in the background, and those that no run was told of yet."""
    holders: tuple[str, ...] = ()
    """Agents that the thread was handed from and to, the one that has it last."""
    standing: Standing = Standing()
    """Its mode, grants and goal."""

    def holder(self, agent: str) -> str:
        """Name who answers for an agent: the one that it handed the thread to, if it did."""
        return self.holders[-1] if agent in self.holders else agent

    @property
    def joining(self) -> tuple[str, ...]:
        """Runs that wait to be taken along, in order."""
        return tuple(name for name in self.queue if self.runs[name].joins)


def incoming(command: Command) -> tuple[Message, ...]:
    """Give the messages a command brings along."""
    assert isinstance(command.data, RunAgent)
    text = command.data.text
    return (*command.data.messages, *(() if text is None else (Message(role="user", content=text),)))


def evolve(state: Conversation, emitted: Emitted) -> Conversation:
    """Fold one fact into the conversation. Never fails: the event has already happened."""
    return _FOLDS[type(emitted.event)](state, emitted.entity, emitted.event)


def _evolve_thread(state: Conversation, _name: str, event: ThreadEvent) -> Conversation:
    match event:
        case MessageAdded(message=message):
            return _said(state, message)
        case CommandAccepted(command=command):
            commands = {**state.commands, command.id: command}
            return replace(state, commands=commands, standing=accepted(state.standing, command))
        case CommandRefused(command=command, problem=problem):
            return replace(state, refused={**state.refused, command.id: problem})
        case MemoryWritten(topic=topic, text=text):
            return replace(state, notes={**state.notes, topic: text})
        case OwnershipTaken():
            return state
        case ThreadForked(profile=profile):
            return _gone_over(state, profile)
        case _:
            assert_never(event)


def _evolve_memory(state: Conversation, _name: str, event: MemoryEvent) -> Conversation:
    memory = remembered(state.memory, event)
    if not memory.deleted or memory.erased:
        return replace(state, memory=memory)
    bare = Conversation(state.tenant, state.thread, commands=forgotten(state.commands), refused=state.refused)
    return replace(bare, memory=memory, orphans=state.orphans)


def _evolve_run(state: Conversation, name: str, event: RunEvent) -> Conversation:
    match event:
        case RunStarted(profile=profile):
            queue = tuple(waiting for waiting in state.queue if waiting != name)
            memory = begun(state.memory, len(state.messages))
            about = {"active": name, "queue": queue, "memory": memory, "standing": began(state.standing)}
            return replace(_begun(state, name, profile), **about)
        case RunFinished() | RunFailed():
            return replace(_over(state, name, event), standing=ended(state.standing, name, event))
        case RunQueued(profile=profile, joins=joins):
            ahead = state.joining if joins else state.queue
            queue = (*ahead, name, *(waiting for waiting in state.queue if waiting not in ahead))
            state = _begun(state, name, profile)
            return replace(_with(state, replace(state.runs[name], joins=joins)), queue=queue)
        case DeadlinePassed():
            return _with(state, replace(state.runs[name], deadline=0))
        case HooksTold():
            told = _with(state, replace(state.runs[name], ended=None))
            return replace(told, untold=tuple(run for run in state.untold if run != name))
        case _:
            assert_never(event)


def _evolve_among(state: Conversation, name: str, event: AmongEvent) -> Conversation:
    match event:
        case RunJoined(into=into):
            return _joined(state, name, into)
        case RunHandedOver(agent=agent, by=by):
            return _handed_over(state, state.runs[name], agent, by)
        case ChildDisowned(effect=effect):
            return replace(state, orphans=(*state.orphans, effect))
        case ChildEnded(effect=effect):
            return replace(state, orphans=tuple(left for left in state.orphans if left != effect))
        case _:
            assert_never(event)


def _evolve_task(state: Conversation, name: str, event: TaskEvent) -> Conversation:
    return replace(state, tasks=after_task(state.tasks, state.runs[name], event))


def _evolve_model(state: Conversation, name: str, event: ModelEvent) -> Conversation:
    run = state.runs[name]
    match event:
        case ModelCalled(step=step):
            attempt = 1 if run.retry is None else run.retry.attempt
            mode = state.standing.mode_of(run.profile.agent) if run.retry is None else run.mode
            asking = replace(run, step=step, asking=event, attempt=attempt, retry=None, answer=None, pending=())
            asking = replace(asking, mode=mode, asked_model=event.model)
            return _with(replace(state, memory=asked(state.memory, event.first)), asking)
        case ModelReturned():
            return _answered(state, run, event)
        case ModelFailed(problem=problem, usage=usage, cost=cost):
            took = {"usage": run.usage + usage, "cost": added(run.cost, cost)}
            return _with(state, replace(run, asking=None, refused=refusal(problem), **took))
        case RetryScheduled():
            return _with(state, replace(run, retry=event))
        case RetryDue():
            return state
        case _:
            assert_never(event)


def _evolve_step(state: Conversation, name: str, event: StepEvent) -> Conversation:
    run = state.runs[name]
    match event:
        case StepOpened():
            return _with(state, replace(run, opened=event, prepared=None))
        case StepPrepared():
            return _with(state, replace(run, opened=None, prepared=event, **_took(run, event)))
        case _:
            assert_never(event)


def _evolve_call(state: Conversation, name: str, event: ToolEvent) -> Conversation:
    run = state.runs[name]
    match event:
        case ToolCalled(effect=effect, call=call):
            return _with(state, called(run, effect, call))
        case ToolReturned() | ToolFailed() | ToolIndeterminate():
            return _resolved(state, run, event)
        case ApprovalGiven() | ApprovalDenied():
            # the fact that follows in the same commit says what becomes of the call
            return state
        case ToolResumed(effect=effect, attempt=attempt) if effect in state.tasks:
            return replace(state, tasks=again(state.tasks, effect, attempt))
        case ToolResumed(effect=effect, attempt=attempt):
            return _with(state, changed(run, effect, attempts=attempt))
        case _:
            assert_never(event)


def _evolve_wait(state: Conversation, name: str, event: WaitEvent) -> Conversation:
    run = state.runs[name]
    match event:
        case ApprovalRequested(effect=effect, call=call):
            return _with(state, with_call(run, Pending(effect, call, waits="approval")))
        case ToolHandedOver(effect=effect, call=call):
            return _with(state, with_call(run, Pending(effect, call, waits="caller")))
        case ToolSuspended(effect=effect):
            return _with(state, changed(run, effect, waits="data", asked=event))
        case ToolContinued(effect=effect, answer=answer):
            (item,) = (item for item in run.pending if item.effect == call_of(effect))
            return _with(state, changed(run, effect, waits=None, answers=(*item.answers, answer), attempts=1))
        case _:
            assert_never(event)


def _evolve_standing(state: Conversation, _name: str, event: StandingEvent) -> Conversation:
    return replace(state, standing=stood(state.standing, event))


_FOLDS: dict[type[Event], Callable[[Conversation, str, Any], Conversation]] = {
    shape: fold
    for shapes, fold in (
        (ThreadEvent, _evolve_thread),
        (MemoryEvent, _evolve_memory),
        (RunEvent, _evolve_run),
        (TaskEvent, _evolve_task),
        (AmongEvent, _evolve_among),
        (ModelEvent, _evolve_model),
        (StepEvent, _evolve_step),
        (ToolEvent, _evolve_call),
        (WaitEvent, _evolve_wait),
        (StandingEvent, _evolve_standing),
    )
    for shape in get_args(shapes)
}
"""Event type to what folds it: one lookup instead of up to twenty comparisons, at every event of every replay."""


def _gone_over(state: Conversation, profile: Profile | None) -> Conversation:
    """Leave the origin of a fork: what was under way there is not under way here, and is intended anew."""
    state = replace(
        state,
        commands={name: _undated(command) for name, command in state.commands.items()},
        runs={name: replace(run, deadline=0, ended=None) for name, run in state.runs.items()},
        untold=(),
        orphans=(),
        tasks={},
        memory=replace(state.memory, condensing=None),
        standing=parted(state.standing),
    )
    run = state.runs.get(state.active or "")
    if run is None:
        return state
    pending = tuple(item for item in run.pending if item.result is not None or item.waits)
    step = run.step if run.asking is None else run.step - 1
    there = replace(run, profile=profile or run.profile, step=step, asking=None, pending=pending, opened=None)
    return _with(state, there)


def _joined(state: Conversation, name: str, into: str) -> Conversation:
    """Have a waiting run's messages be another one's."""
    taking = state.runs[into]
    state = _with(state, replace(state.runs[name], over=True, joins=False))
    state = _with(state, replace(taking, joined=(*taking.joined, name)))
    return replace(state, queue=tuple(waiting for waiting in state.queue if waiting != name))


def _handed_over(state: Conversation, run: Run, agent: str, by: str) -> Conversation:
    assert run.handover is not None
    held = tuple(name for name in (*state.holders, by) if name != agent)
    gone = replace(run, profile=run.handover.profile, handover=None, prepared=None)
    return replace(_with(state, gone), holders=(*dict.fromkeys(held), agent))


def _undated(command: Command) -> Command:
    """Take the deadline away, which was the origin's."""
    if not isinstance(command.data, RunAgent) or not command.data.deadline:
        return command
    return replace(command, data=replace(command.data, deadline=0))


def _begun(state: Conversation, name: str, profile: Profile) -> Conversation:
    """Note a run; one that is told of a task counts what that took, once."""
    data = state.commands[name].data
    if not isinstance(data, RunAgent):
        return _with(state, Run(name, profile))
    task, known = state.tasks.get(data.task), state.runs.get(name)
    usage, cost = (Usage(), 0.0) if known is None else (known.usage, known.cost)
    if task is not None and task.ended:
        usage, cost = task.usage, task.cost
        state = replace(state, tasks={one: left for one, left in state.tasks.items() if one != data.task})
    return _with(state, Run(name, profile, deadline=data.deadline, usage=usage, cost=cost))


def _with(state: Conversation, run: Run) -> Conversation:
    return replace(state, runs={**state.runs, run.id: run})


def _over(state: Conversation, name: str, event: RunFinished | RunFailed) -> Conversation:
    if isinstance(event, RunFailed) and event.problem.kind == "too_long" and event.steps == 1:
        state = _unsaid(state, name)
    run = state.runs[name]
    ended = event if run.profile.observed else None
    over = _with(state, replace(run, over=True, asking=None, retry=None, answer=None, opened=None, ended=ended))
    if ended is not None:
        over = replace(over, untold=(*over.untold, name))
    if state.active == name:
        return replace(over, active=None)
    return replace(over, queue=tuple(waiting for waiting in state.queue if waiting != name))


def _unsaid(state: Conversation, name: str) -> Conversation:
    """Leave what a run brought out of later prompts: it never fitted, and would make every further one too long."""
    brought = sum(len(incoming(state.commands[run])) for run in (name, *state.runs[name].joined))
    messages = state.messages[: len(state.messages) - brought]
    prefix = ""
    for message in messages:
        prefix = codec.chained(prefix, message)
    return replace(state, messages=messages, prefix=prefix)


def _said(state: Conversation, message: Message) -> Conversation:
    return replace(state, messages=(*state.messages, message), prefix=codec.chained(state.prefix, message))


def _answered(state: Conversation, run: Run, event: ModelReturned) -> Conversation:
    profile = in_mode(run.profile, run.mode)
    state = replace(state, memory=measured(state.memory, state.messages, run.asking, profile, event))
    state = _with(state, replace(run, asking=None, answer=event, refused="", **_took(run, event)))
    if event.tool_calls or event.finish_reason in BROKEN_OFF:
        return state
    said = Message(role="assistant", content=event.text, reasoning=event.reasoning, thoughts=event.thoughts)
    return _said(state, said)


def _took(run: Run, event: ModelReturned | ToolReturned | ToolFailed | StepPrepared) -> dict[str, Any]:
    return {"usage": run.usage + event.usage, "cost": added(run.cost, event.cost)}


def _resolved(state: Conversation, run: Run, event: ToolResult) -> Conversation:
    """Note a tool's result; once all of the step are in, the thread gets them in the order they were called."""
    if call_of(event.effect) in {item.effect for item in run.pending}:
        pending = changed(
            run, event.effect, result=event.content, waits=None, returned=isinstance(event, ToolReturned)
        ).pending
    else:
        # refused or answered before it was called: it has its place among the others all the same
        assert run.answer is not None
        index = index_of(event.effect)
        answered = any(one.index == index and one.answer is not None for one in run.answer.judged)
        call = run.answer.tool_calls[index]
        pending = (*run.pending, Pending(event.effect, call, event.content, returned=answered))
    took = _took(run, event) if isinstance(event, ToolReturned | ToolFailed) else {}
    run = replace(run, pending=pending, **took)
    if isinstance(event, ToolReturned) and event.handover is not None and run.handover is None:
        run = replace(run, handover=Handover(event.effect, event.handover))
    state = _with(state, run)
    if run.answer is None or len(pending) < len(run.answer.tool_calls) or any(item.result is None for item in pending):
        return state
    answer = run.answer
    asked = Message("assistant", answer.text, answer.tool_calls, reasoning=answer.reasoning, thoughts=answer.thoughts)
    state = _said(state, asked)
    for item in sorted(pending, key=lambda item: index_of(item.effect)):
        state = _said(state, Message(role="tool", content=item.result or "", tool_call_id=item.call.id))
    return state
