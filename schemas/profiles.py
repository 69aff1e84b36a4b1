"""What a run is: its agent as it was when the command was accepted."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from schemas.generation import Sampling
from schemas.memory import MemoryPlan
from schemas.messages import Calling, ToolSpec
from schemas.models import ModelChain
from schemas.wire import Wire

ToolEffect = Literal["pure", "idempotent", "checkable", "once"]
ToolPlace = Literal["here", "client", "service", "agent", "handoff"]


class ToolBinding(Wire, frozen=True):
    """A tool as a run may call it."""

    name: str
    effect: ToolEffect
    digest: str
    """Hash of its description and schema as the model sees them."""
    approval: bool = False
    """Whether a person must agree to each call."""
    place: ToolPlace = "here"
    """Who runs it: the agent's own process, the caller, a NATS service, or another agent in a thread of its own;
    or the thread is handed to another agent."""
    spec: ToolSpec | None = None
    """What the model is told of a tool that is not the agent's own."""
    service: str = ""
    """The name of the service or agent that a tool is; it may go by another here."""
    timeout_ms: Annotated[int, msgspec.Meta(ge=0)] = 0
    """How long a service may take; 0 is as long as always."""
    background: bool = False
    """Whether the run goes on at once, and is told later what the call came to."""
    grantable: bool = False
    """Whether a person may agree to all calls of it in a thread beforehand."""


class Retries(Wire, frozen=True):
    """How a model call that failed for a reason that may pass is tried again."""

    most: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    """How often in one step; 0 is never, as it was before there were retries."""
    first_ms: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)] = 500
    """The longest wait before the first; before each further one it is twice as long."""
    longest_ms: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)] = 30_000
    """No wait is longer, unless the engine asks for one."""


class ModePlan(Wire, frozen=True):
    """One of the modes that an agent may be in."""

    name: str
    instructions: str = ""
    """What is said after the agent's own."""
    active_tools: tuple[str, ...] | None = None
    """Those of the agent's that the model sees; None is all."""
    model: str = ""
    """That is asked; empty is the agent's."""


class Profile(Wire, frozen=True):
    """The agent as it was when the run was accepted: later changes of its definition do not touch the run."""

    agent: str
    model: str
    instructions: str
    tools: tuple[ToolBinding, ...]
    sampling: Sampling
    max_steps: int
    """Model calls allowed; one that is tried again counts once."""
    retries: Retries = Retries()
    calling: Calling = Calling()
    tool_concurrency: Annotated[int, msgspec.Meta(ge=0)] = 0
    """How many tools of one step may run at once; 0 is all."""
    step_timeout_ms: Annotated[int, msgspec.Meta(ge=0)] = 0
    """How long one model call may take; 0 is for ever."""
    stop_tools: tuple[str, ...] = ()
    """The run is over once one of these has returned."""
    most_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    """No further step is begun once the run's calls have used as many; 0 has no bound."""
    prepares: bool = False
    """Whether functions of the agent are asked before each step."""
    observed: bool = False
    """Whether functions of the agent are told of the run's end."""
    chain: ModelChain | None = None
    """The models that are asked one after the other; `model` is the first of them."""
    memory: MemoryPlan | None = None
    """How much of the thread is shown; None is all."""
    processors: tuple[str, ...] = ()
    """Names of those that stand between the agent and its model, in their order."""
    most_cost: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """No further step is begun once the run's calls have cost as much, US dollars; 0 has no bound."""
    edition: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Which form the loop's decisions have. From 1 on an end tells what the run took, however it came to that, and
    runs that it asked for are ended by an effect of their own. From 2 on what stands in a thread by what an agent did
    or was asked names that agent, a run that was ended before it came is refused, a goal's run that fails pauses the
    goal whatever else waits, and the goal's judge waits for tasks."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer of the model."""
    reasoning_effort: str = ""
    """What templates that know of it are told; empty is nothing."""
    background_concurrency: Annotated[int, msgspec.Meta(ge=0)] = 0
    """How many of the agent's tools may run in the background of its thread at once; 0 is all."""
    modes: tuple[ModePlan, ...] = ()
    """What the agent may be in; it is in the first one unless its thread says otherwise."""
    guards_calls: bool = False
    """Whether a function of the agent is asked before each call: what the model writes need not be what is called."""
