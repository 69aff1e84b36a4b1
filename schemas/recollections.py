"""What programs may ask of memory, and are told: requests on `rpc.memory.<verb>.<tenant>`, answered as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from schemas.memory import Metadata, Resource
from schemas.messages import Role, ToolCall
from schemas.runs import Problem
from schemas.wire import Wire

_Few = Annotated[int, msgspec.Meta(ge=1, le=200)]
_Many = Annotated[int, msgspec.Meta(ge=1, le=1000)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class AskThreads(Wire, frozen=True):
    """Which threads there are, those with the latest events first. `rpc.memory.threads.<tenant>`."""

    resource: Resource | None = None
    """Those of this person or project; None is everybody's."""
    text: str = ""
    """In the title, in any case."""
    metadata: Metadata = msgspec.field(default_factory=dict)
    """All of it must be there."""
    before: int | None = None
    """Last active before this time, microseconds since the Unix epoch: where the page before ended."""
    limit: _Few = 20
    thread: str | None = None
    """That one alone."""


class ThreadTold(Wire, frozen=True):
    """A thread."""

    thread: str
    resource: str
    title: str
    metadata: Mapping[str, str]
    agent: str
    status: str
    messages: int
    """From outside."""
    first: int
    """Time of its first event, microseconds since the Unix epoch."""
    last: int


class AskMessages(Wire, frozen=True):
    """What was said in a thread. `rpc.memory.messages.<tenant>`."""

    thread: str
    first: _Count = 0
    limit: _Many = 100


class MessageTold(Wire, frozen=True):
    """A message."""

    number: int
    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class MessagesTold(Wire, frozen=True):
    """Some of a thread's messages."""

    total: int
    messages: tuple[MessageTold, ...]


class AskRecall(Wire, frozen=True):
    """What was said that is near to a text. `rpc.memory.recall.<tenant>`."""

    text: Annotated[str, msgspec.Meta(min_length=1)]
    scope: Literal["thread", "resource", "tenant"] = "resource"
    thread: str = ""
    resource: Resource = ""
    count: _Few = 4
    embedder: str = ""
    """By its name; where there is but one it need not be said."""


class Recalled(Wire, frozen=True):
    """Something that was said."""

    thread: str
    role: Role
    content: str
    score: float
    """Cosine: 1 is the same direction."""
    place: str
    """`<sequence>/<index>` in the log."""


class AskUnindexed(Wire, frozen=True):
    """What was said and `recall` cannot find, the latest first. `rpc.memory.unindexed.<tenant>`."""

    limit: _Few = 20


class UnindexedTold(Wire, frozen=True):
    """Something that was said, and that its embedder refuses."""

    thread: str
    place: str
    """`<sequence>/<index>` in the log."""
    embedder: str
    reason: str
    tries: int
    aside: bool
    """Whether it is not tried again before somebody asks for it."""


class AskReindex(Wire, frozen=True):
    """Have all that `recall` cannot find tried again. `rpc.memory.reindex.<tenant>`."""


class ReindexTold(Wire, frozen=True):
    """How many texts are tried again."""

    count: int


class AskWorking(Wire, frozen=True):
    """The working memory of a thread, or that which the threads of a resource share. `rpc.memory.working.<tenant>`."""

    thread: str = ""
    resource: Resource = ""


class WorkingTold(Wire, frozen=True):
    """It."""

    content: str
    """Empty before anything was written."""


class Unanswered(Wire, frozen=True, tag="problem"):
    """Why there is no answer."""

    problem: Problem
