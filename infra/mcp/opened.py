"""Tools that are open to clients by themselves, without an agent that decides: each call is a run of one tool.

Nothing is open unless the settings name it. A tool comes with what its agent has put around it: what needs a person's
agreement there needs it here, and the agent's own functions before and after tools are asked. Processors stand between
an agent and a model, and here is none: tools of agents that have some cannot be open. Whoever lists tools asks a
process of agents, which knows them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from actors.agent.around_tools import AfterTool, BeforeTool, ToolUse, ToolUsed
from actors.agent.definition import Agent
from actors.agent.hooks import called_hook
from actors.errors import ActorError, DefinitionError
from actors.models.direct import DIRECT, OPENED
from actors.tools import Tool
from actors.toolsets import Surroundings, ToolServices, toolset_of
from bus import subjects
from bus.connection import Connection, Message
from bus.errors import BusError
from bus.microservices import names_of_services
from infra.offers import tool_offered
from infra.settings import McpSettings
from schemas import codec
from schemas.errors import SchemaError
from schemas.faults import fault
from schemas.rest import ToolOffered

log = logging.getLogger(__name__)

AGENT: Final = OPENED
"""Whose runs they are."""
NAMED: Final = "opened_tool"
"""In a run's context: the tool that it calls."""
ALL: Final = "*"
_PREFIX: Final = "tool-"
_LOOK_S: Final = 0.3
_FRESH_S: Final = 10.0
_ASK_S: Final = 5.0
_QUEUE: Final = "opened-tools"
_MOST: Final = 1000


class OpenedTools:
    """The `Toolset` of runs that call one tool."""

    def __init__(self, agents: Sequence[Agent], settings: McpSettings) -> None:
        """Take what is open.

        Raises:
            DefinitionError: what is to be open is not there, or two tools share a name.
        """
        self._settings = settings
        self._agents = {agent.name: agent for agent in agents}
        self._owners = dict(_owners(settings, self._agents))

    async def tools(self, around: Surroundings) -> tuple[Tool, ...]:
        """Give the one that a run is about; none where it is not open.

        Raises:
            NoService: it runs elsewhere, and is not there.
        """
        name = around.context.get(NAMED)
        found = await self._find(name, around) if isinstance(name, str) else None
        return () if found is None else (found,)

    async def offered(self, services: ToolServices, named: Sequence[str]) -> list[ToolOffered]:
        """Tell of all that are open; what cannot be had now is left out.

        Args:
            services: describes those that run elsewhere.
            named: the names of those.
        """
        around, found = Surroundings(services=services), list[ToolOffered]()
        for name in dict.fromkeys((*self._owners, *named)):
            try:
                tool = await self._find(name, around)
            except ActorError as error:
                log.warning("tool %r is open and cannot be had: %s", name, error)
                continue
            if tool is None:
                log.warning("tool %r is open, and its agent has none that is called by itself", name)
            else:
                found.append(tool_offered(tool))
        return found

    def around_tools(self) -> tuple[BeforeTool | None, AfterTool | None]:
        """Give what asks the functions of whose tool a call is of; None where no owner has such functions."""
        owners = self._owners.values()
        before = self._before if any(owner.before_tool for owner in owners) else None
        after = self._after if any(owner.after_tool for owner in owners) else None
        return before, after

    async def _before(self, use: ToolUse) -> Any:
        owner = self._owners.get(use.tool)
        if owner is None or owner.before_tool is None:
            return None
        return await called_hook(owner.name, owner.before_tool, replace(use, agent=owner.name))

    async def _after(self, used: ToolUsed) -> Any:
        owner = self._owners.get(used.use.tool)
        if owner is None or owner.after_tool is None:
            return None
        return await called_hook(owner.name, owner.after_tool, replace(used, use=replace(used.use, agent=owner.name)))

    async def _find(self, name: str, around: Surroundings) -> Tool | None:
        if name in self._owners:
            given = await toolset_of(self._owners[name].tools).tools(around)  # type: ignore[arg-type]  # no function
            return next((tool for tool in given if tool.name == name and _is_whole(tool)), None)
        if around.services is None or not {name, ALL} & set(self._settings.services):
            return None
        return await around.services.describe(name)


def _owners(settings: McpSettings, agents: Mapping[str, Agent]) -> Iterator[tuple[str, Agent]]:
    seen: set[str] = set()
    for entry in settings.tools:
        agent, _, tool = entry.partition("/")
        if agent not in agents or not tool:
            known = ", ".join(sorted(agents)) or "none"
            raise DefinitionError(f"mcp.tools: {entry!r}: give AGENT/TOOL of an agent that is served ({known})")
        if callable(agents[agent].tools):
            message = f"mcp.tools: {entry!r}: the tools of {agent!r} are a function of the request, and cannot be open"
            raise DefinitionError(message)
        if agents[agent].processors:
            message = f"mcp.tools: {entry!r}: {agent!r} has processors, which calls without its model would pass by"
            raise DefinitionError(f"{message}: open the tool of an agent that has none")
        if tool in seen:
            raise DefinitionError(f"mcp.tools: two tools are named {tool!r}: open one of them")
        seen.add(tool)
        yield tool, agents[agent]


def _is_whole(tool: Tool) -> bool:
    """Say whether a call of a tool is all there is to it: not another agent's run, nor the caller's own to run."""
    return tool.place in {"here", "service"} and not tool.background


def opened_agents(agents: Sequence[Agent], settings: McpSettings) -> list[Agent]:
    """Give the agent whose runs are calls of open tools, where any is.

    Raises:
        DefinitionError: what is to be open is not there, or an agent of the stack has that name.
    """
    if settings == McpSettings():
        return []
    if any(agent.name == AGENT for agent in agents):
        raise DefinitionError(f"the agent {AGENT!r} calls tools that are open (`mcp.tools`): name yours otherwise")
    opened = OpenedTools(agents, settings)
    before, after = opened.around_tools()
    return [Agent(AGENT, "", DIRECT, tools=opened, max_steps=2, retries=0, before_tool=before, after_tool=after)]


class OpenedService:
    """Answers what is open, for whoever lists tools."""

    def __init__(
        self, connection: Connection, agents: Sequence[Agent], settings: McpSettings, services: ToolServices
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._services = services
        self._opened = OpenedTools(agents, settings)
        self._named: tuple[str, ...] = ()
        self._looked: float | None = None

    async def serve(self) -> None:
        """Answer on `rpc.opened-tools.list`, one process to each request.

        Raises:
            Unavailable: the connection is closed.
        """

        async def heard(message: Message) -> None:
            if message.reply:
                await self._connection.publish(message.reply, codec.encode(await self._told()))

        await self._connection.subscribe(subjects.OPENED_TOOLS, heard, _QUEUE)

    async def _told(self) -> list[ToolOffered]:
        try:
            return (await self._opened.offered(self._services, await self._names()))[:_MOST]
        except Exception as error:  # noqa: BLE001  a tool of somebody's breaks: the others are told of the next time
            log.warning("which tools are open cannot be said: %s", fault(error))
            return []

    async def _names(self) -> tuple[str, ...]:
        """Name the services that are open: those that answer, where all are; looked for anew every few seconds."""
        if ALL not in self._settings.services:
            return self._settings.services
        if self._looked is None or time.monotonic() - self._looked > _FRESH_S:
            self._looked = time.monotonic()
            names = await names_of_services(self._connection, _PREFIX, _LOOK_S)
            self._named = tuple(name.removeprefix(_PREFIX) for name in names)
        return self._named


@dataclass
class Opened:
    """The tools that are open, as a process of agents says."""

    connection: Connection
    _known: tuple[ToolOffered, ...] = ()

    async def tools(self) -> tuple[ToolOffered, ...]:
        """List them; while nobody says, those that there were."""
        try:
            reply = await self.connection.request(subjects.OPENED_TOOLS, b"", _ASK_S)
            self._known = codec.decode(reply.data, tuple[ToolOffered, ...])
        except (BusError, TimeoutError, SchemaError) as error:
            log.warning("which tools are open is not known now: %s", error)
        return self._known
