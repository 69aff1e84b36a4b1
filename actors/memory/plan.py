"""An agent's memory, as its author writes it down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from actors.errors import DefinitionError
from actors.memory.observing import recall_tool
from actors.memory.working import working_tool
from actors.tools import Tool
from schemas.memory import MemoryPlan, Working, WorkingScope

_LONGEST_S = 86_400
"""Of condensing: a day."""


@dataclass(frozen=True, slots=True)
class Memory:
    """How much of its thread a model is shown, and what it keeps in mind.

    Raises:
        DefinitionError: a number is negative or no time, the scope is none, there is both a template and a schema, or
            the schema is not an object's.
    """

    last: int = 0
    """Messages that it is shown at most; 0 shows all. When there are more, the older half of them leaves at once."""
    tokens: int = 0
    """Tokens at most that they take, about; 0 shows as many as fit the model."""
    working: str | None = None
    """A template of what it keeps in mind, such as `# The user\\n- name:`; it gets a tool to write it."""
    schema: dict[str, Any] | None = None
    """A JSON Schema of what it keeps in mind, in place of a template: what it writes is merged (RFC 7396)."""
    scope: WorkingScope = "thread"
    """Whether what it keeps in mind is of one thread, or of the `resource` that the thread belongs to: then all threads
    of that person or project share it."""
    observe: int = 0
    """Tokens of a turn above which older messages are condensed into observations, after it; 0 is never."""
    observe_timeout_s: float = 120.0
    """Seconds after which condensing is given up; a later turn has it tried again."""
    titles: bool = False
    """Whether the model finds a title for a thread that has none, after its first turn."""
    model: str = ""
    """That condenses and finds titles, as `Agent.model` names it; empty is the agent's own."""

    def __post_init__(self) -> None:
        for name in ("last", "tokens", "observe"):
            if getattr(self, name) < 0:
                raise DefinitionError(f"memory {name}={getattr(self, name)}: give a number from 0, which is no limit")
        if not 0.001 <= self.observe_timeout_s <= _LONGEST_S:
            raise DefinitionError(
                f"memory observe_timeout_s={self.observe_timeout_s}: give a number from 0.001 to {_LONGEST_S}"
            )
        if self.working is not None and self.schema is not None:
            raise DefinitionError("memory: give `working`, a template, or `schema`, not both")
        if self.scope not in get_args(WorkingScope):
            raise DefinitionError(f"memory scope={self.scope!r}: give one of {get_args(WorkingScope)}")
        self.tools()

    def plan(self) -> MemoryPlan:
        """Give what a run records of it."""
        return MemoryPlan(
            last=self.last,
            tokens=self.tokens,
            working=self._working(),
            observe=self.observe,
            titles=self.titles,
            model=self.model,
            observe_timeout_ms=round(1000 * self.observe_timeout_s) if self.observe else 0,
        )

    def tools(self) -> tuple[Tool, ...]:
        """Give the tools that come with it."""
        working = self._working()
        written = () if working is None else (working_tool(working),)
        return (*written, recall_tool()) if self.observe else written

    def _working(self) -> Working | None:
        if self.working is None and self.schema is None:
            return None
        return Working(template=self.working or "", parameters=self.schema, scope=self.scope)
