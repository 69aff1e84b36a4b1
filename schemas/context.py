"""Time, identity and chance, as the protocols through which all code must ask for them (law 3)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import msgspec


class Clock(Protocol):
    """Tells the time. Durations for measurement may use `time.monotonic` directly."""

    def now(self) -> int:
        """Return the wall-clock time in microseconds since the Unix epoch."""


class Ids(Protocol):
    """Makes identifiers that no other process will make."""

    def new(self, prefix: str) -> str:
        """Return a fresh id: `prefix`, then lower-case letters and digits, sortable by time of making."""


class Chance(Protocol):
    """Draws random numbers."""

    def bits(self, count: int) -> int:
        """Return an unpredictable integer in `[0, 2**count)`."""


class Context(msgspec.Struct, frozen=True):
    """What a pure `decide` may know of the world. Built from the log again when a decision is verified."""

    now: int
    """Microseconds since the Unix epoch."""
    seed: int
    """A random 48-bit integer, drawn once per decision and recorded by the events that use it."""


TRACE: ContextVar[str] = ContextVar("traceparent", default="")
"""The W3C trace context of what this task works on: for log lines and for what is sent on, never for a decision."""
REQUEST: ContextVar[str] = ContextVar("x-request-id", default="")
"""The id of the HTTP request that this task works on, likewise."""


@contextmanager
def traced(traceparent: str) -> Iterator[None]:
    """Log within the trace of something that this task does not work on otherwise."""
    before = TRACE.set(traceparent)
    try:
        yield
    finally:
        TRACE.reset(before)
