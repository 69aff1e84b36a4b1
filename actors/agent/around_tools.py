"""What an agent's own functions around its tools see of a call, and what they may say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from actors.request_context import RequestContext


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call of a tool that the model wants."""

    run: str
    agent: str
    thread: str
    step: int
    """The model call that wants it, from 1."""
    tool: str
    arguments: Mapping[str, Any]
    """Plain JSON values, which fit the tool."""
    context: RequestContext
    resource: str
    """Whose thread it is."""


@dataclass(frozen=True, slots=True)
class ToolUsed:
    """What came of it."""

    use: ToolUse
    """With the arguments that it was called with."""
    content: str
    """What the model is to read."""
    returned: bool
    """Whether the tool said that, or it is why there is nothing from it."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What `before_tool` returns where the tool is not to be called, and this is read in place of what it returns."""

    content: Any
    """A text, or anything that JSON can carry."""


BeforeTool = Callable[[ToolUse], Any]
"""Returns other arguments (a mapping), `Refused`, `Answered`, or None, which leaves it; async or not."""
AfterTool = Callable[[ToolUsed], Any]
"""Returns what the model is to read in place of what the tool returned, or None; async or not."""
