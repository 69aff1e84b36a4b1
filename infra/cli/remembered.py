"""What a thread remembers, and whose it is, told in a line."""

from __future__ import annotations

from actors.memory.state import MemoryEvent
from schemas.memory import (
    CondensingBegun,
    CondensingEnded,
    Observed,
    ThreadCreated,
    ThreadDeleted,
    ThreadErased,
    ThreadRenamed,
    WorkingWritten,
)
from schemas.runs import MemoryWritten


def told_of_memory(event: MemoryEvent | MemoryWritten) -> tuple[str, str]:
    """Say who did it, and what in one line."""
    match event:
        case MemoryWritten(topic=topic, text=text):
            return "memory", f"{topic!r} = {text!r}"
        case WorkingWritten(content=content, by=by):
            return by or "memory", f"keeps in mind {content!r}"
        case Observed() | CondensingBegun() | CondensingEnded():
            return "memory", _condensed(event)
        case ThreadCreated(resource=resource, title=title):
            return "thread", f"of {resource or 'nobody'}{f': {title!r}' if title else ''}"
        case ThreadRenamed(title=title, by=by):
            return by or "thread", f"is called {title!r}"
        case ThreadDeleted() | ThreadErased():
            return "thread", _over(event)


def _condensed(event: Observed | CondensingBegun | CondensingEnded) -> str:
    match event:
        case Observed(upto=upto, text=text):
            return f"{upto} messages condensed: {text!r}"
        case CondensingBegun(upto=upto):
            return f"{upto} messages are to be condensed"
        case CondensingEnded(kind=kind, reason=reason):
            return f"not condensed ({kind}): {reason}" if kind else "the model has condensed them"


def _over(event: ThreadDeleted | ThreadErased) -> str:
    if isinstance(event, ThreadDeleted):
        return f"deleted: {event.reason}" if event.reason else "deleted"
    left = f", but for {event.unsealed} events that were never sealed" if event.unsealed else ""
    return f"what it held is erased{left}"
