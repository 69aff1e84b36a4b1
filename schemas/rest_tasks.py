"""Tool calls in the background, as the REST API tells of them."""

from __future__ import annotations

from schemas.wire import Wire


class TaskShown(Wire, frozen=True):
    """A tool call that goes on in the background."""

    task: str
    """What a cancellation names."""
    run: str
    """The one that began it."""
    agent: str
    tool: str
    arguments: str


class Tasks(Wire, frozen=True):
    """Those of a thread."""

    data: tuple[TaskShown, ...]
