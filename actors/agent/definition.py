"""What an agent is: frozen data that its author writes."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.agent.around_tools import AfterTool, BeforeTool
from actors.agent.hooks import Hooks, OnEnd, OnStep, Prepare, StopWhen
from actors.agent.judge import Judge
from actors.agent.modes import Mode
from actors.agent.openness import OPEN, Open
from actors.agent.stack import reached
from actors.errors import DefinitionError
from actors.memory.plan import Memory
from actors.processors.processor import Processor
from actors.request_context import RequestContext
from actors.tools import Tool
from actors.toolsets import Tools, Toolset, toolset_of
from schemas.models import ModelChain

_MOST_RETRIES = 100
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

FromContext = Callable[[RequestContext], Any]
"""A function of the request's context, async or not."""


@dataclass(frozen=True, slots=True)
class Agent:
    """A model with instructions and tools, by name.

    Instructions, model, tools, memory and processors may each be a function of the request's `RequestContext`, async or
    not. What they come to is in the run's record, so that a replay needs none of them.

    Raises:
        DefinitionError: the name cannot be part of a subject, a tool was not made by `@tool`, two share a name, or
            a number is out of its bounds.
    """

    name: str
    instructions: str | Callable[[RequestContext], str | Awaitable[str]]
    model: str | ModelChain | Callable[[RequestContext], str | ModelChain | Awaitable[str | ModelChain]] | None = None
    """The served model's name, `provider/model`, or several of them one after the other; None takes the default one."""
    tools: Tools | Callable[[RequestContext], Tools | Awaitable[Tools]] = ()
    """Tools and toolsets."""
    temperature: float = 0.0
    max_tokens: int = 512
    """Tokens one model call may generate."""
    max_steps: int = 8
    """Model calls one run may make."""
    retries: int = 2
    """How often a model call is tried again when it failed for a reason that may pass; 0 is never."""
    tool_concurrency: int = 0
    """How many tools of one step may run at once; 0 is all."""
    step_timeout_s: float = 0.0
    """How long one model call may take before it is broken off and, as `retries` says, tried again; 0 is for ever."""
    stop_tools: Sequence[str] = ()
    """The run is over once one of these has returned."""
    most_tokens: int = 0
    """No further step is begun once the run's model calls have used as many tokens; 0 has no bound."""
    most_cost: float = 0.0
    """No further step is begun once the run's model calls have cost as much, US dollars; 0 has no bound. A model whose
    price is not known is not begun with."""
    stop_when: StopWhen | Sequence[StopWhen] = ()
    """Asked before each step after the first whether the run ends here instead."""
    prepare_step: Prepare | None = None
    """Asked before each step how it differs from the rest."""
    on_step: OnStep | None = None
    """Told of each step that is over; of the last one where the run ends with an answer."""
    on_finish: OnEnd | None = None
    """Told of a run that ended with an answer."""
    on_error: OnEnd | None = None
    """Told of a run that ended without one."""
    before_tool: BeforeTool | None = None
    """Asked about each call of a tool that the model wants, before anybody is asked to agree to it: it may change the
    arguments, refuse, or answer in the tool's place."""
    after_tool: AfterTool | None = None
    """Told what came of each call that is not the caller's to make; may change what the model reads of it."""
    memory: Memory | Callable[[RequestContext], Memory | Awaitable[Memory | None] | None] | None = None
    """How much of its thread the model is shown, and what it keeps in mind; None shows all of it."""
    processors: (
        Sequence[Processor] | Callable[[RequestContext], Sequence[Processor] | Awaitable[Sequence[Processor]]]
    ) = ()
    """What stands between the agent and its model, in the order in which it sees what goes either way."""
    description: str = ""
    """What it is for, told to whoever may ask it. What it is instructed to do is told to nobody."""
    open_to: Sequence[Open] = ()
    """What requests may say in its place: `instructions`, `processors` (left out, too), and bounds past its own
    (`max_steps`, `most_tokens`, `most_cost`, `step_timeout_ms`). Tighter bounds any request may have. And besides:
    `system`, what a client instructs behind the agent's own instructions, `sampling` (`top_p`, `top_k`, `min_p`, three
    penalties and `stop`), and `reasoning_effort`."""
    background_concurrency: int = 0
    """How many of its tools may run in the background of one thread at once; 0 is all. The others wait their turn."""
    modes: Sequence[Mode] = ()
    """What it may be in, each with instructions, tools and a model of its own; a thread begins in the first one."""
    judge: Judge = None
    """Says whether a goal of a thread is reached: a function of a `GoalView`, or the name of a model that is asked;
    None asks the agent's own."""
    hooks: Hooks = field(init=False, repr=False, default_factory=Hooks)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise DefinitionError(f"agent name {self.name!r}: use lower-case letters, digits, '-' and '_' (at most 63)")
        self._check_numbers()
        for name in self.open_to:
            if name not in OPEN:
                known = ", ".join(OPEN)
                raise DefinitionError(f"agent {self.name!r}: `open_to` has {name!r}: give some of {known}")
        if not callable(self.tools):
            if isinstance(self.tools, Iterable):
                object.__setattr__(self, "tools", tuple(self.tools))
            try:
                toolset_of(self.tools)
            except DefinitionError as error:
                raise DefinitionError(f"agent {self.name!r}: {error}") from error
        conditions = (self.stop_when,) if callable(self.stop_when) else tuple(self.stop_when)
        observers = (self.on_step, self.on_finish, self.on_error)
        hooks = Hooks(self.prepare_step, conditions, *observers, self.before_tool, self.after_tool)
        object.__setattr__(self, "hooks", hooks)
        object.__setattr__(self, "stop_tools", tuple(self.stop_tools))
        object.__setattr__(self, "open_to", tuple(self.open_to))
        object.__setattr__(self, "modes", tuple(self.modes))
        if len({mode.name for mode in self.modes}) < len(tuple(self.modes)):
            raise DefinitionError(f"agent {self.name!r} has two modes of one name: rename one")

    async def run(self, text: str, **about: Any) -> Any:
        """Run it on a message, on the stack of the `connect` or `inline` block around; return its `Answer`.

        Args:
            text: the message.
            about: as of `Client.run`: `thread`, `context`, `tools`, `on_wait`, `output_type`, and what a request may
                want otherwise.

        Raises:
            NotConnected: there is no such block.
            NoAnswer: the run was refused or failed.
        """
        return await reached(self.name).run(self.name, text, **about)

    def stream(self, text: str, **about: Any) -> Any:
        """Run it as `run` does; iterate over the `Running` that is returned to hear of it.

        Raises:
            NotConnected: there is no such block.
        """
        return reached(self.name).stream(self.name, text, **about)

    def _check_numbers(self) -> None:
        if not callable(self.processors):
            processors_from(self, self.processors)
        if self.retries not in range(_MOST_RETRIES + 1):
            raise DefinitionError(f"agent {self.name!r}: retries={self.retries!r}: give a number from 0 to 100")
        for name in ("tool_concurrency", "background_concurrency", "step_timeout_s", "most_tokens", "most_cost"):
            if not getattr(self, name) >= 0:
                raise DefinitionError(f"agent {self.name!r}: {name}={getattr(self, name)!r}: give 0 or more")


def processors_from(agent: Agent, given: Any) -> tuple[Processor, ...]:
    """Check what an agent's processors are.

    Raises:
        DefinitionError: one is none, or two share a name.
    """
    known = tuple(given) if isinstance(given, Iterable) else (given,)
    for one in known:
        if not isinstance(one, Processor):
            raise DefinitionError(f"agent {agent.name!r}: `processors` has {one!r}: give a list of processors")
    if len({one.name for one in known}) < len(known):
        raise DefinitionError(f"agent {agent.name!r} has two processors of one name: give each a name")
    return known


def toolset_from(agent: Agent, given: Any) -> Toolset:
    """Make a toolset of what an agent's function gave.

    Raises:
        DefinitionError: it is none.
    """
    if isinstance(given, Tool) or not isinstance(given, Iterable | Toolset):
        raise DefinitionError(f"agent {agent.name!r}: `tools` gave {given!r}: give a list of tools, or a toolset")
    return toolset_of(given)
