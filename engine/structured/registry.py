"""Grammar backends by name: our own, and those that are installed as entry points."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final

from engine.errors import BadRequest
from engine.structured.grammar import Backend, Vocabulary
from engine.structured.guidance import Guidance

GROUP: Final = "ostinato.grammars"
BUILT_IN: Final = "llguidance"


def backend(name: str) -> Callable[[Vocabulary], Backend]:
    """Find what makes a backend.

    Raises:
        BadRequest: There is none of that name.
    """
    if name == BUILT_IN:
        return Guidance
    found = entry_points(group=GROUP)
    if name not in found.names:
        known = ", ".join(sorted({BUILT_IN, *found.names}))
        raise BadRequest("grammar_backend", f"there is no backend {name!r}: installed are {known}")
    made: Callable[[Vocabulary], Backend] = found[name].load()
    return made
