"""Modes of an agent, as its author writes them down: one is on at a time, and says what the agent may do meanwhile."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from actors.errors import DefinitionError
from schemas.profiles import ModePlan

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class Mode:
    """What an agent is while a thread is in this mode.

    Raises:
        DefinitionError: the name is none that a mode may have.
    """

    name: str
    instructions: str = ""
    """Said after the agent's own."""
    tools: Sequence[str] | None = None
    """Names of the agent's tools that the model sees, in which `*` stands for anything; None is all of them."""
    model: str | None = None
    """That is asked, as `Agent.model` names it; None is the agent's own. A request that names a model goes before."""
    description: str = ""
    """What it is for, told to a model that may choose."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise DefinitionError(f"mode {self.name!r}: use lower-case letters, digits, '-' and '_' (at most 63)")
        if isinstance(self.tools, str):
            raise DefinitionError(f"mode {self.name!r}: tools={self.tools!r}: give a list of names")

    def plan(self, tools: Sequence[str], own_model: bool) -> ModePlan:
        """Give what a run records of it: of the agent's tools those that it shows, and its model where that counts."""
        seen = tuple(name for name in tools if any(fnmatchcase(name, wanted) for wanted in self.tools or ()))
        model = (self.model or "") if own_model else ""
        return ModePlan(self.name, self.instructions, None if self.tools is None else seen, model)
