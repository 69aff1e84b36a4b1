"""What waits for somebody, as the REST API tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from schemas.rest import Many
from schemas.wire import Wire


class WaitShown(Wire, frozen=True):
    """A tool call that waits for somebody."""

    kind: Literal["approval", "data", "caller"]
    thread: str
    effect: str
    """What an answer names."""
    tool: str
    arguments: str
    """JSON, as the model wrote it: what is agreed to."""
    payload: Any = None
    """What a suspended tool has to show."""
    schema: Mapping[str, Any] | None = None
    """Of the data that it wants."""
    problem: str = ""
    """Why the data that it was given last did not do."""
    run: str = ""
    agent: str = ""
    since: int | None = None


class Waits(Wire, frozen=True):
    """What waits."""

    data: tuple[WaitShown, ...]


class WaitsQuery(Wire, frozen=True):
    """How many waits."""

    limit: Many = 100
