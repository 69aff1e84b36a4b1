"""Ids of spans, made of what the log holds: a span has the same id whoever tells of it, and however often.

W3C Trace Context: `00-<trace>-<parent span>-<flags>`. A command's trace context names its sender's span; one that
begins a trace names the span of its own request, which thereby has no parent.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import NamedTuple

_TRACEPARENT = re.compile("[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class TraceContext(NamedTuple):
    """A `traceparent`, taken apart."""

    trace: str
    parent: str
    """The span of whoever asked; empty where that is not known."""
    sampled: bool


def span_id(tenant: str, thread: str, name: str) -> str:
    """Name a span: that of an effect by the effect, that of a run by the run, that of a request by its command."""
    return blake2b("\0".join((tenant, thread, name)).encode(), digest_size=8).hexdigest()


def request_span(tenant: str, command: str) -> str:
    """Name the span of a request, by its command's id."""
    return span_id(tenant, "", f"request {command}")


def beginning(bits: int, tenant: str, command: str) -> str:
    """Begin a trace with a command; `bits` are 128 by chance."""
    return f"00-{bits or 1:032x}-{request_span(tenant, command)}-01"


def within(traceparent: str, span: str) -> str:
    """Give the trace context that is handed on from within a span; empty where there is none."""
    found = _TRACEPARENT.fullmatch(traceparent)
    return f"00-{found[1]}-{span}-{found[3]}" if found else ""


def trace_context(traceparent: str, tenant: str, thread: str) -> TraceContext:
    """Read a trace context; where there is none that can be read, a thread is one trace."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        trace = blake2b("\0".join((tenant, thread)).encode(), digest_size=16).hexdigest()
        return TraceContext(trace, "", sampled=True)
    return TraceContext(found[1], found[2], sampled=bool(int(found[3], 16) & 1))
