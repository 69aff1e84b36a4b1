"""Finds the agents that a user's files and modules define."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from actors.agent.definition import Agent
from actors.errors import DefinitionError
from infra.demo import DEMO
from infra.errors import AgentsNotFound, ToolsNotOpened
from infra.mcp.opened import opened_agents
from infra.settings import Settings

_MEND = "name a Python file or module that defines an Agent"


def served_agents(settings: Settings) -> list[Agent]:
    """Return the agents that a stack with these settings serves.

    Raises:
        AgentsNotFound: a place cannot be imported or defines no agent, or two agents share a name.
        ToolsNotOpened: a tool that is to be open is not there.
    """
    agents = load_agents(settings.agents, (DEMO,) if settings.demo_agent else ())
    try:
        opened_agents(agents, settings.mcp)
    except DefinitionError as error:
        raise ToolsNotOpened(str(error)) from error
    return agents


def load_agents(places: Sequence[str], beside: Sequence[Agent] = (DEMO,)) -> list[Agent]:
    """Return every `Agent` at the top level of the files or modules named, after those that are served `beside` them.

    Raises:
        AgentsNotFound: a place cannot be imported or defines no agent, or two agents share a name.
    """
    agents: dict[str, Agent] = {agent.name: agent for agent in beside}
    for place in places:
        found = [value for value in vars(_module(place)).values() if isinstance(value, Agent)]
        if not found:
            raise AgentsNotFound(place, f"it defines no Agent at its top level: {_MEND}")
        for agent in found:
            if agents.get(agent.name, agent) is not agent:
                raise AgentsNotFound(place, f"there is another agent named {agent.name!r}: rename one")
            agents[agent.name] = agent
    return list(agents.values())


def _module(place: str) -> ModuleType:
    if not place.endswith(".py"):
        return _imported(place, lambda: importlib.import_module(place))
    path = Path(place)
    name = f"ostinato_agents_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise AgentsNotFound(place, f"there is no such file: {_MEND}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader = spec.loader

    def load() -> ModuleType:
        loader.exec_module(module)
        return module

    return _imported(place, load)


def _imported(place: str, load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except (Exception, SystemExit) as error:
        problem = f"importing it failed{_line(error, place)}: {type(error).__name__}: {error}"
        raise AgentsNotFound(place, problem) from error


def _line(error: BaseException, place: str) -> str:
    """Say in which line of the user's file it happened, as far as it did."""
    path = str(Path(place).absolute())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f" in line {lines[-1]}" if lines else ""
