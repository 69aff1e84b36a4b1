"""Threads that begin with the history of another."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from schemas.wire import Wire


class Past(Wire, frozen=True):
    """An event of the thread that a fork begins with."""

    kind: Literal["thread", "run"]
    entity: str
    """The run's id; that of a thread is the new thread's, whatever stands here."""
    event: dict[str, Any]
    """As the log has it."""


class Change(Wire, frozen=True):
    """What a fork changes, and to what."""

    name: Literal["model", "prompt", "seed", "message", "tool_result"]
    value: str


class Fork(Wire, frozen=True, tag="fork"):
    """Begin a thread with the history of another, and go on from there. `in.<tenant>.agent.<new thread>.fork`."""

    origin: str
    """The thread it was."""
    at: Annotated[int, msgspec.Meta(ge=1)]
    """The number of its last event that is taken over."""
    history: Annotated[tuple[Past, ...], msgspec.Meta(min_length=1)]
    """Its events up to that one, with what is changed in the last one changed."""
    run: str = ""
    """The run that goes on; empty when none was under way."""
    profile: dict[str, Any] | None = None
    """What that run is from here on, as a `run.started` holds it; as it was, unless given."""
    changes: tuple[Change, ...] = ()
    """For whoever reads the log: the profile and the history hold them already."""
