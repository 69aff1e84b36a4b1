"""Performs what the agent loop asks for: model calls through a provider, tool calls in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from actors.agent.definition import Agent
from actors.agent.retries import AwaitRetry
from actors.agent.turns import AwaitDeadline, CallModel, CallTool
from actors.errors import DefinitionError
from actors.models.asking import ask_model, unknown_model
from actors.models.provider import ModelCall, ModelProvider
from actors.processors.guarded import Guarded, tool_result
from actors.processors.processor import About, Processor
from actors.processors.recall import Library
from actors.runtime.machine import Asked, Effect
from actors.runtime.performer import Site
from actors.tools import Tool, ToolContext
from bus.live import Live
from schemas.commands import Command, Fork, RunAgent
from schemas.context import Clock
from schemas.generation import request_id
from schemas.messages import Message, ToolSpec
from schemas.programs import PERSON, ToolBegan, ToolEnded, program_id
from schemas.runs import (
    DeadlinePassed,
    Event,
    MemoryWrite,
    ModelFailed,
    ModelReturned,
    Problem,
    RetryDue,
    ToolBinding,
    ToolFailed,
    ToolIndeterminate,
    ToolResumed,
    ToolReturned,
)

log = logging.getLogger(__name__)

_MOST_US = 10 * 365 * 86_400_000_000
"""The longest that anything is waited for: ten years."""
MOST_ATTEMPTS = 3
"""A tool that was under way this often when its process ended is taken to end it."""
LONGEST_RESULT = 100_000
"""Characters of a tool's result that a run keeps: more fits no model, and no message of the log."""


class AgentPerformer:
    """The `Performer` of agent runs."""

    def __init__(
        self,
        agents: Sequence[Agent],
        models: Mapping[str, ModelProvider],
        default_model: str,
        live: Live,
        clock: Clock,
        library: Library | None = None,
    ) -> None:
        self._agents = {agent.name: agent for agent in agents}
        self._models = models
        self._default_model = default_model
        self._live = live
        self._clock = clock
        self._library = library

    def look_up(self, command: Command) -> Asked:
        """Find the agent a command names, and fix its profile."""
        if isinstance(command.data, Fork):
            return Asked(command, missing=self._missing(command.data.profile))
        if not isinstance(command.data, RunAgent):
            return Asked(command)  # an approval is about a run that has its profile
        agent = self._agents.get(command.data.agent)
        if agent is None:
            return Asked(command, missing=self._unknown(command.data.agent))
        unknown = set(command.data.processors or ()) - {processor.name for processor in agent.processors}
        if unknown:
            message = f"agent {agent.name!r} has no processor {min(unknown)!r}"
            return Asked(command, missing=Problem(kind="unknown_agent", message=message, field="processors"))
        profile = agent.profile(command.data, self._default_model)
        if profile.model not in self._models:
            return Asked(command, missing=unknown_model(profile.model, self._models))
        return Asked(command, profile)

    def resumption(self, effect: Effect) -> Event | None:
        """Note each further attempt at a tool that may run again."""
        if not isinstance(effect, CallTool) or effect.attempts >= MOST_ATTEMPTS:
            return None
        runs_again = effect.called.effect_class in {"pure", "idempotent", "checkable"}
        return ToolResumed(effect=effect.id, attempt=effect.attempts + 1) if runs_again else None

    def _missing(self, profile: Mapping[str, Any] | None) -> Problem | None:
        """Say what the run of a fork needs and is not here."""
        if profile is None:
            return None
        agent, model = str(profile.get("agent")), str(profile.get("model"))
        if agent not in self._agents:
            return self._unknown(agent)
        return None if model in self._models else unknown_model(model, self._models)

    def _unknown(self, agent: str) -> Problem:
        known = ", ".join(sorted(self._agents)) or "none"
        message = f"no agent {agent!r}: there are {known} (add yours with `ostinato up --agents FILE`)"
        return Problem(kind="unknown_agent", message=message, field="agent")

    def must_finish(self, effect: Effect) -> bool:
        """Tools run here; a model's generation goes on in the engine."""
        return isinstance(effect, CallTool)

    async def abort(self, effect: Effect, site: Site) -> None:
        """Stop a model's generation; a tool ends with its task."""
        if isinstance(effect, CallModel) and effect.called.model in self._models:
            request = request_id(site.tenant, site.thread, effect.id)
            await self._models[effect.called.model].abort(request)

    async def perform(self, effect: Effect, site: Site, again: bool) -> Event:
        """Do one effect; its outcome, good or bad, is an event."""
        match effect:
            case CallModel():
                return await self._call_model(effect, site)
            case CallTool():
                return await self._noted(effect, site, again)
            case AwaitDeadline(at=at):
                await self._until(at)
                return DeadlinePassed(effect=effect.id)
            case AwaitRetry(at=at):
                await self._until(at)
                return RetryDue(effect=effect.id)
            case _:
                raise AssertionError(f"not an effect of an agent: {effect!r}")

    async def _until(self, at: int) -> None:
        # clients choose the time, and no timer takes every number
        await asyncio.sleep(max(0, min(at - self._clock.now(), _MOST_US)) / 1e6)

    async def _call_model(self, effect: CallModel, site: Site) -> Event:
        agent = self._agents.get(effect.profile.agent)
        tools = () if agent is None else tuple(_spec(agent, binding) for binding in effect.profile.tools)
        system = Message(role="system", content=effect.profile.instructions)
        call = ModelCall(
            effect=effect.id,
            model=effect.called.model,
            messages=(system, *effect.messages) if effect.profile.instructions else effect.messages,
            tools=tuple(tool for tool in tools if tool is not None),
            sampling=effect.called.sampling,
            tenant=site.tenant,
            thread=site.thread,
            traceparent=effect.called.traceparent,
            program=program_id(site.tenant, site.thread),
            agent=effect.profile.agent,
        )
        models = self._models
        try:
            processors = _processors(agent, effect.profile.processors)
        except DefinitionError as error:
            return ModelFailed(effect=effect.id, problem=Problem(kind="engine", message=str(error)))
        if processors and call.model in models:
            first, about = effect.called.step == 1, (self._library, effect.resource)
            models = {call.model: Guarded(models[call.model], processors, first, *about)}
        event = await ask_model(models, call, self._live, effect, site)
        if isinstance(event, ModelReturned) and not event.tool_calls:
            await self._models[call.model].note(ToolBegan(call.program, effect.id, PERSON))
        return event

    async def _noted(self, effect: CallTool, site: Site, again: bool) -> Event:
        """Call a tool, and have the engine know for how long it is that the program waits."""
        model, program = self._models.get(effect.model), program_id(site.tenant, site.thread)
        if model is not None:
            await model.note(ToolBegan(program, effect.id, effect.called.call.name))
        event = await self._call_tool(effect, site, again)
        if model is not None:
            await model.note(ToolEnded(program, effect.id))
        return event

    async def _call_tool(self, effect: CallTool, site: Site, again: bool) -> Event:
        called = effect.called
        if again and (called.effect_class == "once" or effect.attempts >= MOST_ATTEMPTS):
            return _given_up(effect)
        agent = self._agents.get(effect.agent)
        tool = None if agent is None else agent.tool(called.call.name)
        if tool is None:
            content = f"error: tool {called.call.name!r} is not here any more"
            return ToolFailed(effect=effect.id, call_id=called.call.id, content=content)
        key = request_id(site.tenant, site.thread, effect.id)
        context = ToolContext(site.tenant, site.thread, key, self._clock.now(), effect.notes)
        try:
            processors = _processors(agent, effect.processors)
        except DefinitionError as error:
            return _failed(effect, str(error))
        if again and called.effect_class == "checkable":
            event = await _check_tool(tool, effect, context)
        else:
            event = await _run_tool(tool, effect, context)
        return await _looked_at(processors, tool, event)


async def _check_tool(tool: Tool, effect: CallTool, context: ToolContext) -> Event:
    """Ask a tool whether an earlier attempt took effect, and run it if not."""
    if tool.check is None:
        return _given_up(effect)
    try:
        found = await tool.checked(context)
    except (Exception, SystemExit) as error:  # noqa: BLE001  what cannot be checked must not be run
        log.warning("tool %s cannot be checked: %r", tool.name, error)
        return _given_up(effect)
    if found is None:
        return await _run_tool(tool, effect, context)
    return ToolReturned(effect=effect.id, call_id=effect.called.call.id, content=_kept(found))


def _processors(agent: Agent | None, names: Sequence[str]) -> list[Processor]:
    """Give a run's processors.

    Raises:
        DefinitionError: one is not here any more: what it kept back must not get through for that.
    """
    known = {} if agent is None else {processor.name: processor for processor in agent.processors}
    for name in names:
        if name not in known:
            raise DefinitionError(f"processor {name!r} of this run is not here any more")
    return [known[name] for name in names]


async def _looked_at(processors: Sequence[Processor], tool: Tool, event: Event) -> Event:
    """Have the processors look at what a tool returned, before it is written down."""
    if not processors or not isinstance(event, ToolReturned | ToolFailed):
        return event
    about = About(None)
    content = _kept(await tool_result(processors, tool.name, event.content, about))
    if isinstance(event, ToolFailed):
        return replace(event, content=content)
    return replace(event, content=content, processed=tuple(about.done))


def _given_up(effect: CallTool) -> ToolIndeterminate | ToolFailed:
    """Say why a call that a crash cut off is not run again."""
    call, times = effect.called.call, effect.attempts
    ended = f"its process ended each of the {times} times that it ran" if times >= MOST_ATTEMPTS else ""
    if effect.called.effect_class == "pure":
        return _failed(effect, f"{ended}: it is not run again")
    content = f"it is not known whether {call.name!r} took effect; it was not run again"
    return ToolIndeterminate(
        effect=effect.id, call_id=call.id, content=f"error: {ended + ', and ' if ended else ''}{content}"
    )


async def _run_tool(tool: Tool, effect: CallTool, context: ToolContext) -> Event:
    call = effect.called.call
    limit = asyncio.timeout(tool.timeout_s)
    try:
        async with limit:
            content = await tool.call(call.arguments, context)
    except TimeoutError as error:
        why = f"it took longer than {tool.timeout_s:g} s" if limit.expired() else str(error) or "TimeoutError"
        return _failed(effect, why)
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a tool raises is the model's to read, not ours
        log.info("tool %s failed: %r", tool.name, error)
        return _failed(effect, str(error) or type(error).__name__)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return _failed(effect, "the tool cancelled itself")
    writes = tuple(MemoryWrite(_kept(write.topic), _kept(write.text), write.scope) for write in context.writes)
    return ToolReturned(effect=effect.id, call_id=call.id, content=_kept(content), writes=writes)


def _failed(effect: CallTool, why: str) -> ToolFailed:
    return ToolFailed(effect=effect.id, call_id=effect.called.call.id, content=_kept(f"error: {why}"))


def _kept(text: str) -> str:
    """Make any text one that the log can hold: Unicode, and not too long."""
    whole = text.encode("utf-8", "replace").decode()
    left = len(whole) - LONGEST_RESULT
    return whole if left <= 0 else f"{whole[:LONGEST_RESULT]}\n[{left} more characters left out]"


def _spec(agent: Agent, binding: ToolBinding) -> ToolSpec | None:
    """Give what the model is told of a tool; None when the tool is gone or not the one the run began with."""
    tool = agent.tool(binding.name)
    return tool.spec if tool is not None and tool.binding == binding else None
