"""What is remembered of a thread beside its messages, as a fold over its events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

import msgspec
from msgspec.structs import replace

from schemas.memory import ThreadCreated, ThreadDeleted, ThreadRenamed, WorkingWritten

MemoryEvent = ThreadCreated | ThreadRenamed | ThreadDeleted | WorkingWritten


class Memory(msgspec.Struct, frozen=True):
    """A thread's place among others, and what is kept in mind of it."""

    resource: str = ""
    """Whose thread it is; empty is nobody's."""
    title: str = ""
    metadata: Mapping[str, str] = {}
    deleted: bool = False
    working: str = ""
    """What was written last; empty before that."""
    first: int = 0
    """Messages before it are not shown any more."""
    begun: int = 0
    """Messages there were when the run under way began."""
    shown: str = ""
    """The working memory when it began: what is shown stays the same for all of a run."""
    rate: int = 300
    """Thousandths of a token that a byte of the prompt takes, by the last call that told."""


def remembered(memory: Memory, event: MemoryEvent) -> Memory:
    """Fold one fact. Never fails: the event has already happened."""
    match event:
        case ThreadCreated(resource=resource, title=title, metadata=metadata):
            return replace(memory, resource=resource, title=title or memory.title, metadata=metadata)
        case ThreadRenamed(title=title, metadata=metadata):
            return replace(memory, title=title, metadata=metadata)
        case WorkingWritten(content=content):
            return replace(memory, working=content)
        case ThreadDeleted():
            return Memory(resource=memory.resource, deleted=True)
        case _:
            assert_never(event)


def begun(memory: Memory, messages: int) -> Memory:
    """Fix what a run shows of the memory, as it begins behind so many messages."""
    return replace(memory, begun=messages, shown=memory.working)


def asked(memory: Memory, first: int) -> Memory:
    """Note from where on messages were shown."""
    return replace(memory, first=first)


def measured(memory: Memory, weight: int, tokens: int) -> Memory:
    """Note how many tokens a prompt of so many bytes took."""
    if weight <= 0 or tokens <= 0:
        return memory
    return replace(memory, rate=max(1, min(4000, 1000 * tokens // weight)))
