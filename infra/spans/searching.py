"""Spans of what programs search for in memory. Pure.

A search is no event: its span is told as it happens, or never.
"""

from __future__ import annotations

from typing import NamedTuple

from infra.spans.content import NoContent
from infra.spans.names import Names
from infra.spans.span import Span
from schemas.tracing import span_id, trace_context


class Searched(NamedTuple):
    """A search of memory that a client asked for."""

    tenant: str
    request: str
    """The request's id: a client may give several the same."""
    traceparent: str
    """Of its caller; empty begins a trace."""
    store: str
    """What memory: the thread, or the scope."""
    text: str
    """What it looked for."""
    found: int
    start: int
    """Microseconds since the Unix epoch."""
    end: int
    problem: str = ""
    resource: str = ""
    """Whose, where it is one person's or project's: told only where content is."""


def search_span(searched: Searched, names: Names, content: NoContent) -> Span:
    """Make its span, beneath the caller's."""
    context = trace_context(searched.traceparent, searched.tenant, searched.request)
    told = {
        names.memory_store: content.searched(searched.resource) or searched.store,
        names.memory_records: searched.found,
        names.memory_query: content.searched(searched.text),
    }
    return Span(
        trace=context.trace,
        span=span_id(searched.tenant, "", f"search {searched.request} {searched.start}"),
        parent=context.parent,
        name=f"{names.recall} recall",
        start=searched.start,
        end=searched.end,
        attributes={
            names.operation: names.recall,
            "ostinato.tenant": searched.tenant,
            "ostinato.request_id": searched.request,
            "ostinato.found": searched.found,
            **{name: value for name, value in told.items() if name and value != ""},
        },
        problem=searched.problem,
        sampled=context.sampled,
    )
