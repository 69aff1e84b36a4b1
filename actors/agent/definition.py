"""What an agent is: frozen data that its author writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from actors.errors import DefinitionError
from actors.memory.plan import Memory
from actors.processors.processor import Processor
from actors.tools import Tool
from schemas.commands import RunAgent
from schemas.generation import Sampling
from schemas.runs import Profile, Retries

_MOST_RETRIES = 100
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class Agent:
    """A model with instructions and tools, by name.

    Raises:
        DefinitionError: the name cannot be part of a subject, a tool was not made by `@tool`, two share a name, or
            the retries are no number from 0 to 100.
    """

    name: str
    instructions: str
    model: str | None = None
    """The served model's name; None takes the default one."""
    tools: Sequence[Tool] = ()
    temperature: float = 0.0
    max_tokens: int = 512
    """Tokens one model call may generate."""
    max_steps: int = 8
    """Model calls one run may make."""
    retries: int = 2
    """How often a model call is tried again when it failed for a reason that may pass; 0 is never."""
    memory: Memory | None = None
    """How much of its thread the model is shown, and what it keeps in mind; None shows all of it."""
    processors: Sequence[Processor] = ()
    """What stands between the agent and its model, in the order in which it sees what goes either way."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise DefinitionError(f"agent name {self.name!r}: use lower-case letters, digits, '-' and '_' (at most 63)")
        object.__setattr__(self, "tools", (*self.tools, *self._remembering()))
        for tool in self.tools:
            if not isinstance(tool, Tool):
                raise DefinitionError(f"agent {self.name!r}: {tool!r} is no tool: put @tool above its function")
        if len({tool.name for tool in self.tools}) < len(self.tools):
            raise DefinitionError(f"agent {self.name!r} has two tools of one name")
        if len({processor.name for processor in self.processors}) < len(self.processors):
            raise DefinitionError(f"agent {self.name!r} has two processors of one name: give each a name")
        if self.retries not in range(_MOST_RETRIES + 1):
            raise DefinitionError(f"agent {self.name!r}: retries={self.retries!r}: give a number from 0 to 100")

    def _remembering(self) -> list[Tool]:
        """Give the memory's tools, unless they are there: a copy of an agent has them already."""
        there = {getattr(tool, "name", "") for tool in self.tools}
        return [] if self.memory is None else [tool for tool in self.memory.tools() if tool.name not in there]

    def tool(self, name: str) -> Tool | None:
        """Return the tool of that name, or None."""
        return next((tool for tool in self.tools if tool.name == name), None)

    def profile(self, command: RunAgent, default_model: str) -> Profile:
        """Fix what a run of this agent is, with the command's overrides. The seed is drawn when it is decided."""
        return Profile(
            agent=self.name,
            model=self.model or default_model,
            instructions=self.instructions,
            tools=tuple(tool.binding for tool in self.tools),
            sampling=Sampling(
                temperature=self.temperature if command.temperature is None else command.temperature,
                seed=0 if command.seed is None else command.seed,
                max_tokens=self.max_tokens if command.max_tokens is None else command.max_tokens,
            ),
            max_steps=self.max_steps,
            retries=Retries(most=self.retries),
            memory=None if self.memory is None else self.memory.plan(),
            processors=self._chosen(command),
        )

    def _chosen(self, command: RunAgent) -> tuple[str, ...]:
        return tuple(one.name for one in self.processors) if command.processors is None else command.processors
