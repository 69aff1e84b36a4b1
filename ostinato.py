"""The public Python API, whole: what an agent author imports."""

from actors.agent.definition import Agent
from actors.agent.hooks import RunEnd, StepChanges, StepView
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

__all__ = [
    "Agent",
    "Approval",
    "Combined",
    "Filtered",
    "Fixed",
    "Prefixed",
    "Renamed",
    "RequestContext",
    "RunEnd",
    "Services",
    "StepChanges",
    "StepView",
    "Surroundings",
    "Tool",
    "ToolContext",
    "Toolset",
    "client_tool",
    "tool",
]
