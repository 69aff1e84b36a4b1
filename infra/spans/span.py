"""A span as the log has it, before any exporter's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

Attributes = Mapping[str, str | int | float | bool | Sequence[str]]
Kind = Literal["internal", "server", "client", "consumer"]


class Link(msgspec.Struct, frozen=True):
    """Another span that this one has to do with."""

    trace: str
    span: str
    attributes: Attributes = {}


class Moment(msgspec.Struct, frozen=True):
    """Something that happened within a span."""

    name: str
    time: int
    """Microseconds since the Unix epoch."""
    attributes: Attributes = {}


class Span(msgspec.Struct, frozen=True):
    """What was done, from when to when."""

    trace: str
    span: str
    parent: str
    """Empty where it begins a trace."""
    name: str
    start: int
    """Microseconds since the Unix epoch."""
    end: int
    kind: Kind = "internal"
    attributes: dict[str, Any] = {}
    problem: str = ""
    """What went wrong."""
    links: tuple[Link, ...] = ()
    moments: tuple[Moment, ...] = ()
    sampled: bool = True
    """Whether whoever began the trace wants it sent."""
