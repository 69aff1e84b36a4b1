"""What a run of an agent is: the agent's functions asked once, with what the command wants otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from actors.agent.definition import Agent, FromContext, processors_from, toolset_from
from actors.agent.openness import SAMPLING, lifted, loosened, opener, unheard
from actors.blocking import called
from actors.errors import ActorError, DefinitionError
from actors.memory.plan import Memory
from actors.processors.processor import Processor
from actors.processors.recall import SemanticRecall
from actors.tools import Tool, client_tool
from actors.toolsets import Surroundings, distinct, toolset_of
from schemas.commands import RunAgent
from schemas.generation import Sampling
from schemas.messages import Calling
from schemas.models import ModelChain
from schemas.profiles import ModePlan, Profile, Retries
from schemas.runs import ErrorKind

LOOK_UP_S = 10.0
"""How long an agent's functions may take before a run: its thread waits meanwhile."""


EDITION = 2
"""The form that the loop's decisions have today: `schemas.profiles.Profile.edition`."""


_KINDS = {
    "instructions": "a text",
    "model": "a model's name, a chain or None",
    "memory": "a Memory or None",
    "processors": "a list of processors",
}


class Unresolved(Exception):
    """An agent's function did not give what a run needs, or a request wants what the agent has not."""

    def __init__(self, message: str, field: str, kind: ErrorKind = "definition") -> None:
        super().__init__(message)
        self.field = field
        self.kind = kind


async def profile_of(agent: Agent, command: RunAgent, around: Surroundings, default_model: str) -> Profile:
    """Fix what a run of this agent is, with the command's overrides. The seed is drawn when it is decided.

    Raises:
        Unresolved: a function of the agent failed, or what it is to be does not fit together.
    """
    instructions = await _asked(agent, "instructions", around, str)
    model = await _asked(agent, "model", around, str | ModelChain | None)
    memory = await memory_of(agent, around)
    processors = await processors_of(agent, around)
    tools = await tools_of(agent, around, memory)
    try:
        tools = distinct([*tools, *(_handed_over(spec) for spec in command.tools)])
    except DefinitionError as error:
        raise Unresolved(f"tools: {error}", "tools", "invalid" if command.tools else "definition") from error
    chosen = _processors(processors, command)
    _refuse_lifting(agent, processors, command)
    profile = Profile(
        agent=agent.name,
        model=command.model or _first(model) or default_model,
        instructions=_instructions(instructions, command),
        tools=tuple(tool.binding for tool in _active(tools, command)),
        sampling=Sampling(
            temperature=agent.temperature if command.temperature is None else command.temperature,
            seed=0 if command.seed is None else command.seed,
            max_tokens=agent.max_tokens if command.max_tokens is None else command.max_tokens,
            structured=command.structured,
            **_drawn(command),
        ),
        max_steps=command.max_steps or agent.max_steps,
        retries=Retries(most=agent.retries),
        calling=_calling(tools, command),
        tool_concurrency=command.tool_concurrency or agent.tool_concurrency,
        step_timeout_ms=round(agent.step_timeout_s * 1000),
        stop_tools=tuple(agent.stop_tools),
        most_tokens=agent.most_tokens,
        prepares=agent.hooks.prepares,
        observed=agent.hooks.observes,
        guards_calls=agent.hooks.before_tool is not None,
        chain=model if isinstance(model, ModelChain) and not command.model else None,
        memory=None if memory is None else memory.plan(),
        processors=chosen,
        most_cost=agent.most_cost,
        edition=EDITION,
        stop=command.stop,
        reasoning_effort=command.reasoning_effort or "",
        background_concurrency=agent.background_concurrency,
        modes=_modes(agent, tools, command),
    )
    told = {name: getattr(command, name) for name in ("step_timeout_ms", "most_tokens", "most_cost")}
    return replace(profile, **{name: value for name, value in told.items() if value is not None})


def _instructions(own: str, command: RunAgent) -> str:
    """Give what the model is instructed to do: what a client adds comes last, and is told as what it is."""
    told = own if command.instructions is None else command.instructions
    if not command.system:
        return told
    return f"{told}\n\n{_SAID_BESIDES}\n{command.system}" if told else command.system


_SAID_BESIDES = "Whoever asks you says besides, which counts where it does not go against the above:"


def _drawn(command: RunAgent) -> dict[str, Any]:
    given = {name: getattr(command, name) for name in SAMPLING if name != "stop"}
    drawn = {name: value for name, value in given.items() if value is not None}
    return drawn | ({"top_k": max(drawn["top_k"], 0)} if "top_k" in drawn else {})


def _modes(agent: Agent, tools: Sequence[Tool], command: RunAgent) -> tuple[ModePlan, ...]:
    """Give what a run records of its agent's modes.

    Raises:
        Unresolved: the request wants another one.
    """
    if command.mode is not None and command.mode not in {mode.name for mode in agent.modes}:
        names = ", ".join(mode.name for mode in agent.modes) or "none"
        raise Unresolved(f"mode: agent {agent.name!r} has no mode {command.mode!r} (modes: {names})", "mode")
    return tuple(mode.plan([tool.name for tool in tools], command.model is None) for mode in agent.modes)


def _refuse_lifting(agent: Agent, processors: Sequence[Processor], command: RunAgent) -> None:
    """See that a request leaves what guards the agent.

    Raises:
        Unresolved: it does not.
    """
    bounds = _bounds(agent)
    name = lifted(command, agent.open_to, bounds, [one.name for one in processors])
    if name:
        most = f" (at most {bounds[name]:g})" if name in bounds else ""
        mend = f"leave it out, or open it there (`open_to` has {opener(name)!r})"
        raise Unresolved(f"{name}: agent {agent.name!r} keeps its own{most}: {mend}", name, "invalid")


def _bounds(agent: Agent) -> dict[str, float]:
    bounds = {name: getattr(agent, name) for name in ("max_steps", "most_tokens", "most_cost")}
    return {**bounds, "step_timeout_ms": round(agent.step_timeout_s * 1000)}


def handed_over(data: RunAgent, agent: Agent) -> RunAgent:
    """Give what another agent is asked for with in place of the one that a client named: what the client wanted of that
    one alone is left out, and so are bounds that are looser than this one's."""
    own: dict[str, Any] = {"instructions": None, "active_tools": None, "tool_choice": None, "tool": "", "model": None}
    own["mode"] = None
    own |= {name: None for name in loosened(data, _bounds(agent)) if name not in agent.open_to}
    own |= unheard(agent.open_to)
    return replace(data, agent=agent.name, processors=None, **own)


def _first(model: str | ModelChain | None) -> str | None:
    return model.entries[0].model if isinstance(model, ModelChain) else model


async def memory_of(agent: Agent, around: Surroundings) -> Memory | None:
    """Give how much an agent remembers.

    Raises:
        Unresolved: its function failed, or gave something else.
    """
    memory: Memory | None = await _asked(agent, "memory", around, Memory | None)
    return memory


async def processors_of(agent: Agent, around: Surroundings) -> tuple[Processor, ...]:
    """Give an agent's processors.

    Raises:
        Unresolved: its function failed, or gave something else.
    """
    if not callable(agent.processors):
        return tuple(agent.processors)
    given = await _asked(agent, "processors", around, Iterable)
    try:
        known = processors_from(agent, given)
    except DefinitionError as error:
        raise Unresolved(str(error), "processors") from error
    if any(isinstance(one, SemanticRecall) for one in known):
        # what it recalls is indexed from the start, before any request
        message = f"agent {agent.name!r}: `processors` gave a SemanticRecall: give it as one of the agent's own"
        raise Unresolved(message, "processors")
    return known


async def tools_of(agent: Agent, around: Surroundings, memory: Memory | None) -> tuple[Tool, ...]:
    """List an agent's own tools for a request.

    Raises:
        Unresolved: its function failed, or a tool that runs elsewhere is not there.
    """
    try:
        async with asyncio.timeout(LOOK_UP_S):
            if callable(agent.tools):
                given = toolset_from(agent, await _called(agent, agent.tools, around))
            else:
                given = toolset_of(agent.tools)
            return (*await given.tools(around), *(() if memory is None else memory.tools()))
    except (Exception, SystemExit) as error:
        raise Unresolved(_failure(agent, "tools", error), "tools") from error


async def _asked(agent: Agent, name: str, around: Surroundings, kind: Any) -> Any:
    """Give a field's value, or what its function says."""
    value = getattr(agent, name)
    if not callable(value):
        return value
    try:
        async with asyncio.timeout(LOOK_UP_S):
            value = await _called(agent, value, around)
    except (Exception, SystemExit) as error:
        raise Unresolved(_failure(agent, name, error), name) from error
    if not isinstance(value, kind):
        raise Unresolved(f"agent {agent.name!r}: `{name}` gave {value!r}: give {_KINDS[name]}", name)
    return value


async def _called(agent: Agent, function: FromContext, around: Surroundings) -> Any:
    return await called(f"a function of agent {agent.name!r}", function, around.context)


def _failure(agent: Agent, name: str, error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"agent {agent.name!r}: `{name}` took longer than {LOOK_UP_S:g} s"
    told = str(error) if isinstance(error, ActorError) else f"{type(error).__name__}: {error}"
    return f"agent {agent.name!r}: `{name}`: {told}"


def _handed_over(spec: Any) -> Tool:
    return client_tool(spec.name, spec.description, spec.parameters or None)


def _active(tools: Sequence[Tool], command: RunAgent) -> Sequence[Tool]:
    """Leave out what the model may not call.

    Raises:
        Unresolved: one that it may call is not there.
    """
    if command.active_tools is None:
        return tools
    known = [tool.name for tool in tools]
    for name in command.active_tools:
        if name not in known:
            names = ", ".join(known) or "none"
            raise Unresolved(f"active_tools: no tool named {name!r} (tools: {names})", "active_tools", "invalid")
    return [tool for tool in tools if tool.name in command.active_tools]


def _processors(processors: Sequence[Processor], command: RunAgent) -> tuple[str, ...]:
    """Name those that are used.

    Raises:
        Unresolved: one is not there.
    """
    known = [processor.name for processor in processors]
    for name in command.processors or ():
        if name not in known:
            names = ", ".join(known) or "none"
            raise Unresolved(f"processors: no processor {name!r} (there are: {names})", "processors", "invalid")
    return tuple(known) if command.processors is None else command.processors


def _calling(tools: Sequence[Tool], command: RunAgent) -> Calling:
    if command.tool and command.tool not in {tool.name for tool in tools}:
        raise Unresolved(f"tool: no tool named {command.tool!r}", "tool", "invalid")
    return Calling(
        choice=command.tool_choice or ("required" if command.tool else "auto"),
        tool=command.tool,
        parallel=command.parallel_tool_calls is not False,
    )
