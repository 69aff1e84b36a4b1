"""What processors did on the way to a model and back: by name and count, never with the text that they found."""

from __future__ import annotations

from typing import Literal

from schemas.wire import Wire

Hook = Literal["input", "prompt", "stream", "answer", "result", "tool_result", "error"]
Action = Literal["changed", "noticed", "stopped"]


class Processed(Wire, frozen=True):
    """One thing that a processor did."""

    processor: str
    hook: Hook
    action: Action
    found: int = 0
    """How many things it found."""
    reason: str = ""
    """What kind of things, in the processor's words."""
