"""The public Python API, whole: what an agent author imports."""

from actors.agent.definition import Agent
from actors.agent.hooks import RunEnd, StepChanges, StepView
from actors.delegates import Delegated, Delegation, Refused, agent_tool, handoff
from actors.mcp_tools import McpTools
from actors.request_context import RequestContext
from actors.tools import Tool, ToolContext, client_tool, tool
from actors.toolsets import (
    Approval,
    Combined,
    Filtered,
    Fixed,
    Prefixed,
    Renamed,
    Services,
    Surroundings,
    Toolset,
)
from infra.answers import Answer
from infra.client import Client, connect
from infra.inline import inline
from infra.running import Running, Waiting

__all__ = [
    "Agent",
    "Answer",
    "Approval",
    "Client",
    "Combined",
    "Delegated",
    "Delegation",
    "Filtered",
    "Fixed",
    "McpTools",
    "Prefixed",
    "Refused",
    "Renamed",
    "RequestContext",
    "RunEnd",
    "Running",
    "Services",
    "StepChanges",
    "StepView",
    "Surroundings",
    "Tool",
    "ToolContext",
    "Toolset",
    "Waiting",
    "agent_tool",
    "client_tool",
    "connect",
    "handoff",
    "inline",
    "tool",
]
