"""A run's processors, put around the tools that it calls."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from actors.agent.calls import kept
from actors.processors.guarded import tool_result
from actors.processors.processor import About, Processor
from schemas.runs import Event, ToolFailed, ToolReturned


async def looked_at(processors: Sequence[Processor], tool: str, event: Event) -> Event:
    """Have the processors look at what a tool returned, before it is written down."""
    if not processors or not isinstance(event, ToolReturned | ToolFailed):
        return event
    about = About(None)
    content = kept(await tool_result(processors, tool, event.content, about))
    if isinstance(event, ToolFailed):
        return replace(event, content=content)
    # what the model does not read would hold what was taken out of what it reads
    return replace(event, content=content, result=None, processed=about.told())
