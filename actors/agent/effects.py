"""What the agent loop asks to be done in the world."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from actors.agent.run import Run
from actors.memory.state import Memory
from actors.runtime.machine import Effect
from schemas.commands import Parent, RunAgent
from schemas.messages import Message
from schemas.profiles import Profile, ToolBinding
from schemas.runs import ModelCalled, RunFailed, RunFinished, ToolCalled


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
    parent: Parent | None = None
    """The call of another run that its run is."""


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
    parent: Parent | None = None
    """The call of another run that its run is."""
    approvals: Literal["ask", "refuse"] = "ask"
    """Whether there is somebody who can be asked."""
    problem: str = ""
    """Why what it was given last did not do."""
    processors: tuple[str, ...] = ()
    """Those that look at what it returns."""
    messages: tuple[Message, ...] = ()
    """What was said in the thread before."""
    memory: Memory = Memory()
    asked: RunAgent | None = None
    """What its run was asked for with, where the call hands the thread over."""
    profile: Profile | None = None
    """The run's, where the call hands the thread over."""
    shared: str = ""
    """The resource whose threads share the working memory."""


class PrepareStep(Effect, frozen=True, kw_only=True):
    """Ask the agent's functions about the step that comes next."""

    step: int
    run: Run
    messages: tuple[Message, ...]
    notes: dict[str, str]
    context: Mapping[str, Any]
    parent: Parent | None = None
    """The call of another run that its run is."""


class TellEnd(Effect, frozen=True, kw_only=True):
    """Tell the agent's observers that a run is over."""

    step: int
    """The model call that would have come next."""
    run: Run
    ended: RunFinished | RunFailed
    messages: tuple[Message, ...]
    notes: dict[str, str]
    context: Mapping[str, Any]


class RunTask(Effect, frozen=True, kw_only=True):
    """Run a tool in the background."""

    call: CallTool


class EndChild(Effect, frozen=True, kw_only=True):
    """End another agent's run that nobody waits for any more."""

    call: str
    """The effect id of the call that it is."""


class AwaitDeadline(Effect, frozen=True, kw_only=True):
    """Wait until a run is to be over."""

    at: int
    """Microseconds since the Unix epoch."""
