"""A run's processors, found again by their names, and put around what it calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from actors.agent.calls import kept
from actors.agent.definition import Agent
from actors.errors import DefinitionError
from actors.models.provider import ModelProvider
from actors.processors.guarded import Guarded, tool_result
from actors.processors.processor import About, Processor
from actors.processors.recall import Library
from schemas.runs import Event, ToolFailed, ToolReturned


def processors_of(agent: Agent | None, names: Sequence[str]) -> list[Processor]:
    """Give a run's processors.

    Raises:
        DefinitionError: one is not here any more: what it kept back must not get through for that.
    """
    known = {} if agent is None else {processor.name: processor for processor in agent.processors}
    for name in names:
        if name not in known:
            raise DefinitionError(f"processor {name!r} of this run is not here any more")
    return [known[name] for name in names]


def guarded(
    models: Mapping[str, ModelProvider],
    model: str,
    processors: Sequence[Processor],
    first: bool,
    library: Library | None,
    resource: str,
) -> Mapping[str, ModelProvider]:
    """Put processors around the model that is called, where there are any."""
    if not processors or model not in models:
        return models
    return {**models, model: Guarded(models[model], processors, first, library, resource)}


async def looked_at(processors: Sequence[Processor], tool: str, event: Event) -> Event:
    """Have the processors look at what a tool returned, before it is written down."""
    if not processors or not isinstance(event, ToolReturned | ToolFailed):
        return event
    about = About(None)
    content = kept(await tool_result(processors, tool, event.content, about))
    if isinstance(event, ToolFailed):
        return replace(event, content=content)
    # what the model does not read would hold what was taken out of what it reads
    return replace(event, content=content, result=None, processed=tuple(about.done))
