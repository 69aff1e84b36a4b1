"""One run of an agent, as its events leave it, and the tool calls of its step."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from schemas.hooks import StepOpened, StepPrepared
from schemas.messages import ToolCall, Usage
from schemas.profiles import Profile
from schemas.runs import ModelCalled, ModelReturned, RetryScheduled, RunFailed, RunFinished
from schemas.waits import ToolSuspended

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


class Handover(msgspec.Struct, frozen=True):
    """A tool call of the step under way that hands the thread to another agent."""

    effect: str
    profile: Profile


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
    cost: float | None = 0.0
    """Of the usage, US dollars; None where a price is not known."""
    joins: bool = False
    """Whether it is waiting to be taken along by the run under way."""
    joined: tuple[str, ...] = ()
    """Runs that it took along before its first answer."""
    handover: Handover | None = None
    """Who goes on from the next step."""
    refused: str = ""  # why its last answer was not taken: the model is told when it is asked again
    mode: str = ""
    """Its agent's in the thread, as the step under way began."""
    asked_model: str = ""
    """The one that was asked last."""

    @property
    def effective(self) -> Profile:
        """The profile as the step under way has it."""
        prepared, profile = self.prepared, in_mode(self.profile, self.mode)
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


def in_mode(profile: Profile, name: str) -> Profile:
    """Give a profile as one of its modes has it: the first one, where it has none of that name."""
    if not profile.modes:
        return profile
    mode = next((mode for mode in profile.modes if mode.name == name), profile.modes[0])
    instructions = "\n\n".join(filter(None, (profile.instructions, mode.instructions)))
    seen = mode.active_tools
    tools = profile.tools if seen is None else tuple(tool for tool in profile.tools if tool.name in seen)
    return replace(profile, instructions=instructions, tools=tools, model=mode.model or profile.model)


def called(run: Run, effect: str, call: ToolCall) -> Run:
    """Note that a call is under way, for the first time or with data that it had asked for."""
    if effect != call_of(effect):
        return run
    return with_call(run, Pending(effect, call))


def changed(run: Run, effect: str, **fields: Any) -> Run:
    name = call_of(effect)
    return replace(run, pending=tuple(replace(item, **fields) if item.effect == name else item for item in run.pending))


def with_call(run: Run, added: Pending) -> Run:
    """Add a call, in the place that it had when it was only waiting."""
    if all(item.effect != added.effect for item in run.pending):
        return replace(run, pending=(*run.pending, added))
    return replace(run, pending=tuple(added if item.effect == added.effect else item for item in run.pending))


def call_of(effect: str) -> str:
    """Name the call that an effect belongs to: `<run>-<step>-t<index>` of `<run>-<step>-t<index>s<time>`."""
    head, _, tail = effect.rpartition("-t")
    return f"{head}-t{tail.partition('s')[0]}"


def index_of(effect: str) -> int:
    """Read a call's place in its answer from its effect id, `<run>-<step>-t<index>`; a model may repeat call ids."""
    return int(effect.rpartition("-t")[2])
