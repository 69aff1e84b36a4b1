"""What is remembered of a thread beside its messages, as a fold over its events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

import msgspec
from msgspec.structs import replace

from actors.memory.window import weight
from schemas.commands import Command
from schemas.memory import (
    CondensingBegun,
    CondensingEnded,
    DeleteThread,
    Observed,
    ThreadCreated,
    ThreadDeleted,
    ThreadErased,
    ThreadRenamed,
    WorkingWritten,
)
from schemas.messages import Message
from schemas.profiles import Profile
from schemas.runs import ModelCalled, ModelReturned, Problem

MemoryEvent = (
    ThreadCreated
    | ThreadRenamed
    | ThreadDeleted
    | ThreadErased
    | WorkingWritten
    | Observed
    | CondensingBegun
    | CondensingEnded
)


class Memory(msgspec.Struct, frozen=True):
    """A thread's place among others, and what is kept in mind of it."""

    resource: str = ""
    """Whose thread it is; empty is nobody's."""
    title: str = ""
    metadata: Mapping[str, str] = {}
    deleted: bool = False
    erased: bool = False
    """Whether what it held cannot be read any more."""
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
    observations: tuple[str, ...] = ()
    """What older messages were condensed into."""
    observed: int = 0
    """How many of them."""
    shown_observations: tuple[str, ...] = ()
    """Those of when the run began."""
    shown_observed: int = 0
    condensing: CondensingBegun | None = None
    """What the model is condensing."""

    @property
    def unshown(self) -> int:
        """Messages that are condensed, or not shown any more."""
        return max(self.first, self.observed)


def remembered(memory: Memory, event: MemoryEvent) -> Memory:
    """Fold one fact. Never fails: the event has already happened."""
    match event:
        case ThreadCreated(resource=resource, title=title, metadata=metadata):
            return replace(memory, resource=resource, title=title or memory.title, metadata=metadata)
        case ThreadRenamed(title=title, metadata=metadata):
            return replace(memory, title=title, metadata=metadata)
        case WorkingWritten(content=content):
            return replace(memory, working=content)
        case Observed(upto=upto, text=text, whole=whole):
            heading = f"[{event.at[:10] or 'earlier'}, messages {0 if whole else event.first} to {upto - 1}]"
            there = () if whole else memory.observations
            return replace(memory, observations=(*there, f"{heading}\n{text}"), observed=upto)
        case CondensingBegun() | CondensingEnded():
            return replace(memory, condensing=event if isinstance(event, CondensingBegun) else None)
        case ThreadDeleted() | ThreadErased():
            return _over(memory, event)
        case _:
            assert_never(event)


def _over(memory: Memory, event: ThreadDeleted | ThreadErased) -> Memory:
    if isinstance(event, ThreadDeleted):
        return Memory(resource=memory.resource, deleted=True)
    return replace(memory, resource="", erased=True)


def begun(memory: Memory, messages: int) -> Memory:
    """Fix what a run shows of the memory, as it begins behind so many messages."""
    observed = {"shown_observations": memory.observations, "shown_observed": memory.observed}
    return replace(memory, begun=messages, shown=memory.working, **observed)


def asked(memory: Memory, first: int) -> Memory:
    """Note from where on messages were shown."""
    return replace(memory, first=first)


def measured(
    memory: Memory, messages: Sequence[Message], called: ModelCalled | None, profile: Profile, answer: ModelReturned
) -> Memory:
    """Note how many tokens a prompt took, where that is of interest and nothing else was in it."""
    tokens = answer.usage.prompt_tokens
    changed = any(one.action != "passed" for one in answer.processed)
    if profile.memory is None or called is None or changed or tokens <= 0:
        return memory
    size = len(profile.instructions.encode()) + sum(map(weight, messages[called.first : called.seen]))
    return replace(memory, rate=max(1, min(4000, 1000 * tokens // max(1, size))))


def forgotten(commands: Mapping[str, Command]) -> dict[str, Command]:
    """Keep of what was asked in a deleted thread only the ids: a command that comes again must be known."""
    return {name: replace(command, data=DeleteThread()) for name, command in commands.items()}


def refusal(problem: Problem) -> str:
    """Say what the model is told of an answer that was not taken; empty where it failed otherwise."""
    return problem.message if problem.kind == "tripwire" else ""
