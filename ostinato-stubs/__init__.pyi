"""The public Python API, whole: what an agent author imports."""

from actors.agent.definition import Agent
from actors.tools import Tool, ToolContext, tool

__all__ = ["Agent", "Tool", "ToolContext", "tool"]
