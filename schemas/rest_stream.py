"""The stream of a run over HTTP: from where on it is told, and what its events carry."""

from __future__ import annotations

from schemas.live import Committed, Progress
from schemas.wire import Wire


class EventsQuery(Wire, frozen=True):
    """From where on a run is told."""

    last_event_id: str = ""
    """Behind this one, as the header `Last-Event-ID` has it for clients that can set one."""


class RunPiece(Wire, frozen=True, kw_only=True, tag="delta", tag_field="frame"):
    """A piece of what a run's model writes."""

    kind: str
    """`text`, `reasoning`, or `arguments` of a call."""
    call: str = ""
    """Its id."""
    tool: str = ""
    offset: int
    """Characters of the same that came before."""
    text: str


RunTold = Committed | RunPiece | Progress
"""What the events of a run's stream carry."""
