"""Tool calls in the background: their run goes on without them, and what they come to is a turn of its own."""

from __future__ import annotations

from typing import Literal

from schemas.memory import MemoryWrite
from schemas.messages import ToolCall, Usage
from schemas.wire import Wire


class TaskStarted(Wire, frozen=True, tag="task.started"):
    """The intention to run a tool in the background. What its run reads at once follows."""

    effect: str
    """Structural: `<run>-<step>-t<index>b`; the task's name, too."""
    call: ToolCall


class TaskEnded(Wire, frozen=True, tag="task.ended"):
    """The tool has come to its end; a run that is told of it follows."""

    effect: str
    outcome: Literal["returned", "failed", "unknown"]
    """Whether the tool said what follows, or it is why there is nothing from it, or nobody knows whether it took
    effect."""
    content: str
    writes: tuple[MemoryWrite, ...] = ()
    usage: Usage = Usage()
    """Of another agent's run that the call was."""
    cost: float | None = 0.0
    """Of that run, US dollars; None where a price is not known."""


class TaskCancelled(Wire, frozen=True, tag="task.cancelled"):
    """Somebody ended the task: nothing comes of it."""

    effect: str
    by: str
    """Source of the command."""
    reason: str = ""


TaskEvent = TaskStarted | TaskEnded | TaskCancelled
