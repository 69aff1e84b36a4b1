"""What an agent remembers: the threads of a person or project, what it keeps in mind, and how much of it is shown.

Commands on `in.<tenant>.agent.<thread>.<verb>`, events of threads, and the plan by which a run goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from schemas.messages import Usage
from schemas.wire import Wire

Resource = Annotated[str, msgspec.Meta(max_length=200)]
"""Names the person or project that a thread belongs to; empty is nobody. An index holds no longer ones."""
Title = Annotated[str, msgspec.Meta(max_length=200)]
Metadata = Annotated[Mapping[str, str], msgspec.Meta(max_length=64)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class CreateThread(Wire, frozen=True, tag="create"):
    """Begin a thread before anything is said in it. `in.<tenant>.agent.<thread>.create`."""

    resource: Resource = ""
    title: Title = ""
    metadata: Metadata = msgspec.field(default_factory=dict)


class RenameThread(Wire, frozen=True, tag="rename"):
    """Give a thread another title, or other metadata. `in.<tenant>.agent.<thread>.rename`."""

    title: Title | None = None
    """None leaves it."""
    metadata: Annotated[Mapping[str, str | None], msgspec.Meta(max_length=64)] = {}
    """What is to be otherwise; None takes a key away."""
    untitled: bool = False
    """Refused where the thread has a title."""


class DeleteThread(Wire, frozen=True, tag="delete"):
    """End a thread for good: nothing of it is shown any more. `in.<tenant>.agent.<thread>.delete`."""

    reason: str = ""


class Remember(Wire, frozen=True, tag="remember"):
    """Put something into a thread's working memory from outside. `in.<tenant>.agent.<thread>.remember`."""

    content: Annotated[str, msgspec.Meta(max_length=16_384)]
    merge: bool = False
    """Whether `content` is a JSON object to be merged into what is there (RFC 7396), and not all of it."""


LONGEST_OBSERVATION = 16_384


class Observe(Wire, frozen=True, tag="observe"):
    """Put what was condensed in the place of messages. `in.<tenant>.agent.<thread>.observe`."""

    after: _Count
    """How many messages were condensed, or not shown, before: refused where that is otherwise by now."""
    upto: _Count
    """How many are from here on."""
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_OBSERVATION)]
    whole: bool = False
    """Whether it replaces what was condensed before."""


class ThreadCreated(Wire, frozen=True, tag="thread.created"):
    """The thread has somebody whom it belongs to, or a title, from here on."""

    resource: str = ""
    title: str = ""
    metadata: Mapping[str, str] = {}


class ThreadRenamed(Wire, frozen=True, tag="thread.renamed"):
    """The thread has this title and metadata from here on."""

    title: str = ""
    metadata: Mapping[str, str] = {}
    by: str = ""
    """Source of the command, or the effect of the model call that found the title."""


class ThreadDeleted(Wire, frozen=True, tag="thread.deleted"):
    """The thread is over for good; every later command is refused."""

    reason: str = ""


class ThreadErased(Wire, frozen=True, tag="thread.erased"):
    """What the thread held cannot be read any more, in any copy: its key was destroyed, what was made of it deleted."""

    effect: str
    """Structural: `<thread>-e`."""
    unsealed: int = 0
    """Events of it that are in the log unsealed, from before threads were: they can still be read."""


class WorkingWritten(Wire, frozen=True, tag="working.written"):
    """The working memory holds this, all of it, from here on."""

    content: str
    by: str = ""
    """Source of the command; empty for a tool's."""


class Observed(Wire, frozen=True, tag="memory.observed"):
    """Messages were condensed: the model is shown this in their place, and they are kept."""

    upto: int
    """How many, from the thread's beginning."""
    text: str
    first: int = 0
    """The first of those that this is about."""
    at: str = ""
    """When, as whoever condensed them says."""
    whole: bool = False
    """Whether it replaces what was condensed before."""


class CondensingBegun(Wire, frozen=True, tag="condensing.begun"):
    """The model is to condense messages, beside the turns: this is before it is asked."""

    effect: str
    """Structural: `<run>-<step>-c`, after the run whose last answer made it due."""
    run: str
    first: int
    """Of the messages that it is about; as many were condensed, or not shown, before."""
    upto: int
    """How many, from the thread's beginning, will be condensed then."""
    at: int
    """When it is given up, microseconds since the Unix epoch."""
    decided: int
    """When it was decided."""
    whole: bool = False
    """Whether what was condensed before is rewritten with it."""


class CondensingEnded(Wire, frozen=True, tag="condensing.ended"):
    """What the model made of them, or why nothing comes of it: a later turn makes it due again."""

    effect: str
    first: int
    upto: int
    text: str = ""
    at: str = ""
    """When, RFC 3339."""
    whole: bool = False
    kind: str = ""
    """Of the problem that there was; empty where there is a text."""
    reason: str = ""
    usage: Usage = Usage()
    cost: float | None = 0.0
    """Of the usage, US dollars; None where the price is not known."""
    engine: str = ""


WorkingScope = Literal["thread", "resource"]


class Working(Wire, frozen=True):
    """What an agent keeps in mind of a thread, and shows its model at every turn."""

    template: str = ""
    """What it holds before anything is written; the model is told to keep to its form."""
    parameters: dict[str, Any] | None = None
    """A JSON Schema of type `object`, in place of a template: writes are merged then (RFC 7396)."""
    scope: WorkingScope = "thread"
    """Whose it is: each thread's own, or one of all threads of a resource. A thread of nobody's has its own."""


class MemoryPlan(Wire, frozen=True):
    """How much of a thread its model is shown, and what besides."""

    last: _Count = 0
    """Messages at most; 0 is all. The older half of them leaves at once: what is shown begins the same for long."""
    tokens: _Count = 0
    """Tokens at most that messages take, as far as can be told beforehand; 0 is as many as fit the model."""
    working: Working | None = None
    observe: _Count = 0
    """Tokens of a turn above which older messages are condensed; 0 is never."""
    titles: bool = False
    """Whether the model finds a title for a thread that has none."""
    observe_timeout_ms: _Count = 0
    """How long condensing may take. 0 is in runs from before it was an effect: whoever asked the model sent `observe`,
    and nothing follows from the run's end."""
    model: str = ""
    """That condenses and finds titles; empty is the run's own."""


WriteScope = Literal["note", "working", "merge", "mode"]
"""Where a tool's write goes: to a topic, to the whole working memory, or merged into it; or it is the thread's mode."""


class MemoryWrite(Wire, frozen=True):
    """A change a tool wants made to the thread's memory."""

    topic: str
    text: str
    scope: WriteScope = "note"
