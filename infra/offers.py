"""What a stack's agents and their tools are, for whoever asks from outside."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from actors.agent.definition import Agent
from actors.tools import Tool
from actors.toolsets import Fixed, toolset_of
from schemas.rest import AgentOffered, ToolOffered


def offers(agents: Sequence[Agent]) -> tuple[AgentOffered, ...]:
    """Tell of agents what does not depend on who asks them."""
    return tuple(_offered(agent) for agent in agents)


def tools_of(offered: Sequence[AgentOffered]) -> tuple[ToolOffered, ...]:
    """List the tools of all agents by name, each with those whose it is; of two that differ in anything both."""
    found: list[ToolOffered] = []
    for agent in offered:
        for tool in agent.tools or ():
            known = next((at for at, one in enumerate(found) if replace(one, agents=()) == tool), None)
            if known is None:
                found.append(replace(tool, agents=(agent.name,)))
            else:
                found[known] = replace(found[known], agents=(*found[known].agents, agent.name))
    return tuple(sorted(found, key=lambda tool: tool.name))


def _offered(agent: Agent) -> AgentOffered:
    return AgentOffered(
        name=agent.name,
        description=agent.description,
        model=agent.model if isinstance(agent.model, str) else None,
        tools=_tools(agent),
        processors=None if callable(agent.processors) else tuple(one.name for one in agent.processors),
        memory=agent.memory is not None,
        max_steps=agent.max_steps,
        open_to=tuple(agent.open_to),
    )


def _tools(agent: Agent) -> tuple[ToolOffered, ...] | None:
    if callable(agent.tools):
        return None
    tools = toolset_of(agent.tools)
    return tuple(map(tool_offered, tools.always)) if isinstance(tools, Fixed) else None


def tool_offered(tool: Tool) -> ToolOffered:
    """Tell of a tool."""
    return ToolOffered(
        name=tool.name,
        description=tool.description,
        parameters=tool.parameters,
        effect=tool.effect,
        place=tool.place,
        approval=tool.approval is not False,
        background=tool.background,
    )
