"""The state of a thread and its runs, as a fold over their events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, assert_never, get_args

import msgspec
from msgspec.structs import replace

from actors.memory.state import Memory, MemoryEvent, asked, begun, forgotten, measured, refusal, remembered
from actors.runtime.machine import Emitted
from schemas import codec
from schemas.commands import Command, RunAgent
from schemas.generation import BROKEN_OFF
from schemas.hooks import HooksTold, StepOpened, StepPrepared
from schemas.messages import Message, ToolCall, Usage
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
from schemas.waits import ToolContinued, ToolHandedOver, ToolSuspended

ThreadEvent = CommandAccepted | CommandRefused | MessageAdded | MemoryWritten | OwnershipTaken | ThreadForked
RunEvent = RunQueued | RunStarted | DeadlinePassed | RunFinished | RunFailed | HooksTold
ModelEvent = ModelCalled | ModelReturned | ModelFailed | RetryScheduled | RetryDue
StepEvent = StepOpened | StepPrepared
ToolEvent = ApprovalGiven | ApprovalDenied | ToolCalled | ToolResumed | ToolResult
WaitEvent = ApprovalRequested | ToolHandedOver | ToolSuspended | ToolContinued

Waits = Literal["approval", "data", "caller"]
"""For whom: a person's agreement before it is called, data that it asked for, or the caller who runs it."""


class Pending(msgspec.Struct, frozen=True):
    """A tool call of the step under way."""

    effect: str
    call: ToolCall
    result: str | None = None
    returned: bool = False
    """Whether the result is what the tool said, and not why there is none."""
    waits: Waits | None = None
    """None while it runs, and once there is a result."""
    attempts: int = 1
    """How often it was begun."""
    asked: ToolSuspended | None = None
    """What it asked for last."""
    answers: tuple[Any, ...] = ()
    """What it was given, each time that it asked."""

    @property
    def under_way(self) -> str:
        """The effect id of what was begun last: each time that it goes on with data is an effect of its own."""
        return f"{self.effect}s{len(self.answers)}" if self.answers else self.effect


class Run(msgspec.Struct, frozen=True):
    """One run of an agent in the thread."""

    id: str
    profile: Profile
    step: int = 0
    """Model calls made."""
    asking: ModelCalled | None = None
    """The model call under way."""
    attempt: int = 1
    """Which one at the step's model call it is, or was."""
    retry: RetryScheduled | None = None
    """What the model is asked again after."""
    answer: ModelReturned | None = None
    """The last answer, until what follows from it is done."""
    pending: tuple[Pending, ...] = ()
    usage: Usage = Usage()
    deadline: int = 0
    """When it is to be over, microseconds since the Unix epoch; 0 is never, or that it has passed."""
    over: bool = False
    opened: StepOpened | None = None
    """The step that the agent's functions are asked about."""
    prepared: StepPrepared | None = None
    """What they made of the step under way."""
    ended: RunFinished | RunFailed | None = None
    """What observers are still to be told."""
    refused: str = ""  # why its last answer was not taken: the model is told when it is asked again

    @property
    def effective(self) -> Profile:
        """The profile as the step under way has it."""
        prepared, profile = self.prepared, self.profile
        if prepared is None:
            return profile
        named = ("model", "instructions", "calling")
        changed = {name: value for name in named if (value := getattr(prepared, name)) is not None}
        drawn = {
            name: value for name in ("temperature", "max_tokens") if (value := getattr(prepared, name)) is not None
        }
        active = prepared.active_tools
        tools = profile.tools if active is None else tuple(tool for tool in profile.tools if tool.name in active)
        return replace(profile, tools=tools, sampling=replace(profile.sampling, **drawn), **changed)


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
            return replace(state, commands={**state.commands, command.id: command})
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
    return Conversation(state.tenant, state.thread, (), "", {}, forgotten(state.commands), state.refused, memory=memory)


def _evolve_run(state: Conversation, name: str, event: RunEvent) -> Conversation:
    match event:
        case RunStarted(profile=profile):
            queue = tuple(waiting for waiting in state.queue if waiting != name)
            run, memory = _begun(state, name, profile), begun(state.memory, len(state.messages))
            return replace(_with(state, run), active=name, queue=queue, memory=memory)
        case RunFinished() | RunFailed():
            return _over(state, name, event)
        case RunQueued(profile=profile):
            return replace(_with(state, _begun(state, name, profile)), queue=(*state.queue, name))
        case DeadlinePassed():
            return _with(state, replace(state.runs[name], deadline=0))
        case HooksTold():
            told = _with(state, replace(state.runs[name], ended=None))
            return replace(told, untold=tuple(run for run in state.untold if run != name))
        case _:
            assert_never(event)


def _evolve_model(state: Conversation, name: str, event: ModelEvent) -> Conversation:
    run = state.runs[name]
    match event:
        case ModelCalled(step=step):
            attempt = 1 if run.retry is None else run.retry.attempt
            called = replace(run, step=step, asking=event, attempt=attempt, retry=None, answer=None, pending=())
            return _with(replace(state, memory=asked(state.memory, event.first)), called)
        case ModelReturned():
            return _answered(state, run, event)
        case ModelFailed(problem=problem):
            return _with(state, replace(run, asking=None, refused=refusal(problem)))
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
            return _with(state, replace(run, opened=None, prepared=event))
        case _:
            assert_never(event)


def _evolve_call(state: Conversation, name: str, event: ToolEvent) -> Conversation:
    run = state.runs[name]
    match event:
        case ToolCalled(effect=effect, call=call):
            return _with(state, _called(run, effect, call))
        case ToolReturned() | ToolFailed() | ToolIndeterminate():
            return _resolved(state, run, event)
        case ApprovalGiven() | ApprovalDenied():
            # the fact that follows in the same commit says what becomes of the call
            return state
        case ToolResumed(effect=effect, attempt=attempt):
            return _with(state, _changed(run, effect, attempts=attempt))
        case _:
            assert_never(event)


def _evolve_wait(state: Conversation, name: str, event: WaitEvent) -> Conversation:
    run = state.runs[name]
    match event:
        case ApprovalRequested(effect=effect, call=call):
            return _with(state, _pending(run, Pending(effect, call, waits="approval")))
        case ToolHandedOver(effect=effect, call=call):
            return _with(state, _pending(run, Pending(effect, call, waits="caller")))
        case ToolSuspended(effect=effect):
            return _with(state, _changed(run, effect, waits="data", asked=event))
        case ToolContinued(effect=effect, answer=answer):
            (item,) = (item for item in run.pending if item.effect == call_of(effect))
            return _with(state, _changed(run, effect, waits=None, answers=(*item.answers, answer), attempts=1))
        case _:
            assert_never(event)


_FOLDS: dict[type[Event], Callable[[Conversation, str, Any], Conversation]] = {
    shape: fold
    for shapes, fold in (
        (ThreadEvent, _evolve_thread),
        (MemoryEvent, _evolve_memory),
        (RunEvent, _evolve_run),
        (ModelEvent, _evolve_model),
        (StepEvent, _evolve_step),
        (ToolEvent, _evolve_call),
        (WaitEvent, _evolve_wait),
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
    )
    run = state.runs.get(state.active or "")
    if run is None:
        return state
    pending = tuple(item for item in run.pending if item.result is not None or item.waits)
    step = run.step if run.asking is None else run.step - 1
    there = replace(run, profile=profile or run.profile, step=step, asking=None, pending=pending, opened=None)
    return _with(state, there)


def _undated(command: Command) -> Command:
    """Take the deadline away, which was the origin's."""
    if not isinstance(command.data, RunAgent) or not command.data.deadline:
        return command
    return replace(command, data=replace(command.data, deadline=0))


def _begun(state: Conversation, name: str, profile: Profile) -> Run:
    data = state.commands[name].data
    return Run(name, profile, deadline=data.deadline if isinstance(data, RunAgent) else 0)


def _with(state: Conversation, run: Run) -> Conversation:
    return replace(state, runs={**state.runs, run.id: run})


def _called(run: Run, effect: str, call: ToolCall) -> Run:
    """Note that a call is under way, for the first time or with data that it had asked for."""
    if effect != call_of(effect):
        return run
    return _pending(run, Pending(effect, call))


def _changed(run: Run, effect: str, **fields: Any) -> Run:
    name = call_of(effect)
    return replace(run, pending=tuple(replace(item, **fields) if item.effect == name else item for item in run.pending))


def _pending(run: Run, added: Pending) -> Run:
    """Add a call, in the place that it had when it was only waiting."""
    if all(item.effect != added.effect for item in run.pending):
        return replace(run, pending=(*run.pending, added))
    return replace(run, pending=tuple(added if item.effect == added.effect else item for item in run.pending))


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
    messages = state.messages[: len(state.messages) - len(incoming(state.commands[name]))]
    prefix = ""
    for message in messages:
        prefix = codec.chained(prefix, message)
    return replace(state, messages=messages, prefix=prefix)


def _said(state: Conversation, message: Message) -> Conversation:
    return replace(state, messages=(*state.messages, message), prefix=codec.chained(state.prefix, message))


def _answered(state: Conversation, run: Run, event: ModelReturned) -> Conversation:
    state = replace(state, memory=measured(state.memory, state.messages, run.asking, run.profile, event))
    state = _with(state, replace(run, asking=None, answer=event, usage=run.usage + event.usage, refused=""))
    if event.tool_calls or event.finish_reason in BROKEN_OFF:
        return state
    said = Message(role="assistant", content=event.text, reasoning=event.reasoning, thoughts=event.thoughts)
    return _said(state, said)


def _resolved(state: Conversation, run: Run, event: ToolResult) -> Conversation:
    """Note a tool's result; once all of the step are in, the thread gets them in the order they were called."""
    if call_of(event.effect) in {item.effect for item in run.pending}:
        pending = _changed(
            run, event.effect, result=event.content, waits=None, returned=isinstance(event, ToolReturned)
        ).pending
    else:
        # refused before it was called (no such tool): it has its place among the others all the same
        assert run.answer is not None
        call = run.answer.tool_calls[_index(event.effect)]
        pending = (*run.pending, Pending(event.effect, call, event.content))
    used = run.usage + event.usage if isinstance(event, ToolReturned) else run.usage
    run = replace(run, pending=pending, usage=used)
    state = _with(state, run)
    if run.answer is None or len(pending) < len(run.answer.tool_calls) or any(item.result is None for item in pending):
        return state
    answer = run.answer
    asked = Message("assistant", answer.text, answer.tool_calls, reasoning=answer.reasoning, thoughts=answer.thoughts)
    state = _said(state, asked)
    for item in sorted(pending, key=lambda item: _index(item.effect)):
        state = _said(state, Message(role="tool", content=item.result or "", tool_call_id=item.call.id))
    return state


def call_of(effect: str) -> str:
    """Name the call that an effect belongs to: `<run>-<step>-t<index>` of `<run>-<step>-t<index>s<time>`."""
    head, _, tail = effect.rpartition("-t")
    return f"{head}-t{tail.partition('s')[0]}"


def _index(effect: str) -> int:
    """Read a call's place in its answer from its effect id, `<run>-<step>-t<index>`; a model may repeat call ids."""
    return int(effect.rpartition("-t")[2])
