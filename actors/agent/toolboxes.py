"""The tools and processors of a run, as objects that can be called: an agent's functions and toolsets asked again,
wherever its run goes on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.agent.definition import Agent
from actors.agent.profiles import Unresolved, memory_of, processors_of, tools_of
from actors.errors import DefinitionError
from actors.processors.processor import Processor
from actors.request_context import RequestContext
from actors.runtime.performer import Site
from actors.tools import Tool
from actors.toolsets import Surroundings, ToolServices
from schemas.faults import fault
from schemas.messages import ToolSpec
from schemas.profiles import Profile, ToolBinding

log = logging.getLogger(__name__)

MOST_BOXES = 1000
"""Runs whose tools are remembered: those of more are asked for again."""


@dataclass(frozen=True, slots=True)
class Toolbox:
    """Tools by their names."""

    tools: Mapping[str, Tool] = field(default_factory=dict)
    problem: str = ""
    """Why there are none."""
    processors: Mapping[str, Processor] = field(default_factory=dict)

    def specs(self, bindings: Sequence[ToolBinding]) -> tuple[ToolSpec, ...]:
        """Give what the model is told; a tool that is gone, or not the one the run began with, is left out."""
        told = (binding.spec or self._spec(binding) for binding in bindings)
        return tuple(spec for spec in told if spec is not None)

    def _spec(self, binding: ToolBinding) -> ToolSpec | None:
        tool = self.tools.get(binding.name)
        return tool.spec if tool is not None and tool.binding.digest == binding.digest else None

    def guards(self, names: Sequence[str]) -> list[Processor]:
        """Give a run's processors.

        Raises:
            DefinitionError: one is not here any more: what it kept back must not get through for that.
        """
        for name in names:
            if name not in self.processors:
                raise DefinitionError(self.problem or f"processor {name!r} of this run is not here any more")
        return [self.processors[name] for name in names]

    def why(self, name: str) -> str:
        """Say why a tool cannot be called."""
        return self.problem or f"tool {name!r} is not here any more"


class Toolboxes:
    """The toolboxes of an agent process's runs."""

    def __init__(self, agents: Mapping[str, Agent], services: ToolServices | None) -> None:
        self._agents = agents
        self._services = services
        self._boxes: dict[tuple[str, str, str, str], Toolbox] = {}

    async def of(self, run_of: Profile | str, run: str, site: Site, context: Mapping[str, Any]) -> Toolbox:
        """Give the tools of an agent for a run."""
        name = run_of if isinstance(run_of, str) else run_of.agent
        key = (site.tenant, site.thread, run, name)
        box = self._boxes.get(key)
        if box is None:
            around = Surroundings(site.tenant, site.thread, RequestContext(context), self._services)
            box = await self._made(name, around)
        if not box.problem:
            self._boxes[key] = box
        if len(self._boxes) > MOST_BOXES:
            del self._boxes[next(iter(self._boxes))]
        return box

    async def _made(self, name: str, around: Surroundings) -> Toolbox:
        agent = self._agents.get(name)
        if agent is None:
            return Toolbox()
        processors: dict[str, Processor] = {}
        try:
            processors = {one.name: one for one in await processors_of(agent, around)}
            tools = await tools_of(agent, around, await memory_of(agent, around))
        except Unresolved as error:
            log.warning("the tools of a run of agent %r cannot be had: %s", name, fault(error))
            return Toolbox(problem=str(error), processors=processors)
        return Toolbox({tool.name: tool for tool in tools}, processors=processors)
