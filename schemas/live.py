"""What watchers hear on `live.<tenant>.<kind>.<id>`: committed events, delta frames, outcomes of commands.

JSON with CloudEvents attribute names. A watcher's position is (entity version, offset): events it has seen up to
`version`, and of the call under way, characters up to `offset`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from schemas.answers import CallTold, TokenTold
from schemas.runs import Problem
from schemas.wire import Wire


class Committed(Wire, frozen=True, tag="committed", tag_field="frame"):
    """An event, after its append was acknowledged."""

    id: str
    """`<sequence>-<index>`: the place in the log."""
    type: str
    subject: str
    """The entity."""
    thread: str
    time: str
    tenant: str
    cause: str
    version: int
    data: msgspec.Raw
    specversion: str = "1.0"
    source: str = "ostinato"
    traceparent: str = ""


class Delta(Wire, frozen=True, tag="delta", tag_field="frame"):
    """A piece of the model's text, of its reasoning or of a tool call's arguments, cut once by the frontend."""

    subject: str
    """The entity (run or generation)."""
    thread: str
    effect: str
    version: int
    """The entity's version at the `model.called` this belongs to."""
    offset: int
    """Characters of this call's text that came before: a reader that has more of them drops the overlap."""
    text: str
    """Empty in a piece of reasoning: who knows of none hears nothing new."""
    choice: int = 0
    """Which of several answers."""
    reasoning: str = ""
    reasoning_offset: int = 0
    """Characters of this call's reasoning that came before."""
    token_offset: int = 0
    """Tokens of this answer that were told of before those that follow."""
    logprobs: tuple[TokenTold, ...] = ()
    """What the model made of the tokens whose text this is, where that was asked for. Tokens of no text come with the
    next piece, or the answer."""
    token_ids: tuple[int, ...] = ()
    """The same tokens' ids, where those were asked for."""
    call: CallTold | None = None
    """Whose arguments the next are, where the model writes those."""
    arguments: str = ""
    arguments_offset: int = 0
    """Characters of this call's arguments that came before."""
    key: str = ""
    """In the trace only: the id of the key by which `sealed` is."""
    sealed: str = ""
    """All of this piece, where its thread is sealed."""


class Progress(Wire, frozen=True, tag="progress", tag_field="frame"):
    """What a tool says while it runs: heard now or never."""

    subject: str
    """The run."""
    thread: str
    effect: str
    """Of the `tool.called`."""
    version: int
    """The run's version at that."""
    n: int
    """The number of this one in its call, from 1."""
    data: Any = None


class Shed(Wire, frozen=True, tag="shed", tag_field="frame"):
    """In the trace only: deltas of an entity that are not kept, because the server or the link was slow.

    Each process numbers the deltas of all entities that it was to keep, from 1.
    """

    producer: str
    """The process (`producer_run`)."""
    first: int
    """The number of the first that is not kept."""
    last: int
    """The number of the last; those between may be of other entities."""
    count: int
    """How many of this entity's are not kept."""


class Outcome(Wire, frozen=True, tag="outcome", tag_field="frame"):
    """What became of a command. `live.<tenant>.command.<command id>`."""

    command: str
    result: Literal["accepted", "refused", "dead"]
    thread: str
    problem: Problem | None = None
    retry_after_ms: int = 0


Frame = Committed | Delta | Progress | Outcome
"""What watchers hear."""

Traced = Delta | Shed
"""What the trace keeps of an entity."""
