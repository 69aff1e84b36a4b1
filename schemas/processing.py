"""What processors did on the way to a model and back: by name, count and time, never with the text that they found."""

from __future__ import annotations

from typing import Literal

from schemas.wire import Wire

Hook = Literal["input", "prompt", "stream", "answer", "result", "tool_result", "error"]
Action = Literal["changed", "noticed", "stopped", "passed"]
"""`passed` is that it had nothing to say."""


class Processed(Wire, frozen=True):
    """One thing that a processor did."""

    processor: str
    hook: Hook
    action: Action
    found: int = 0
    """How many things it found."""
    reason: str = ""
    """What kind of things, in the processor's words."""
    took_us: int = 0
    """Microseconds that its hook took, all told; in the first entry of the hook."""
    memory: bool = False
    """Whether it searched memory, and what it found stands there."""
