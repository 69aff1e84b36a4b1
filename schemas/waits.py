"""What a run waits for beside models and its own tools: data for a suspended tool, and callers that run tools."""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.messages import ToolCall
from schemas.wire import Wire


class ToolSuspended(Wire, frozen=True, tag="tool.suspended"):
    """The tool cannot go on without data from outside: the call waits, for as long as it takes."""

    effect: str
    """Of the `tool.called`; a `resume` names it."""
    call_id: str
    payload: Any = None
    """What whoever answers is to see."""
    schema: dict[str, Any] = msgspec.field(default_factory=dict)
    """A JSON Schema of the data that it waits for; empty takes any."""
    problem: str = ""
    """Why the data that was given last did not do."""


class ToolContinued(Wire, frozen=True, tag="tool.continued"):
    """Somebody gave the data that a suspended tool waited for; its next `tool.called` follows."""

    effect: str
    """Of the `tool.suspended`."""
    by: str
    """Source of the command."""
    answer: Any = None


class ToolHandedOver(Wire, frozen=True, tag="tool.handed_over"):
    """The caller is to run this call itself: the run waits until its `result` comes."""

    effect: str
    """Structural: `<run>-<step>-t<index>`; the `result` names it."""
    call: ToolCall
