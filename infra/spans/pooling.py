"""Spans of what models of whole texts are asked for: vectors, labels, scores, ranks. Pure.

None of it is an event: its span is told as it happens, or never.
"""

from __future__ import annotations

from typing import NamedTuple

from infra.spans.names import Names
from infra.spans.span import Span
from schemas.tracing import span_id, trace_context


class TextsPooled(NamedTuple):
    """A request over HTTP to such a model."""

    tenant: str
    request: str
    """The request's id: a client may give several the same."""
    traceparent: str
    """Of its caller; empty begins a trace."""
    operation: str
    """What is done: `embeddings` as the conventions call it, the others as their routes do."""
    model: str
    """Empty where the request could not be read."""
    tokens: int
    start: int
    """Microseconds since the Unix epoch."""
    end: int
    problem: str = ""


def pooling_span(pooled: TextsPooled, names: Names) -> Span:
    """Make its span, beneath the caller's."""
    context = trace_context(pooled.traceparent, pooled.tenant, pooled.request)
    told: dict[str, str | int] = {
        names.request_model: pooled.model,
        names.response_model: "" if pooled.problem else pooled.model,
        names.input_tokens: "" if pooled.problem else pooled.tokens,
    }
    return Span(
        trace=context.trace,
        span=span_id(pooled.tenant, "", f"pooling {pooled.request} {pooled.start}"),
        parent=context.parent,
        name=f"{pooled.operation} {pooled.model}".rstrip(),
        start=pooled.start,
        end=pooled.end,
        kind="server",
        attributes={
            names.operation: pooled.operation,
            "ostinato.tenant": pooled.tenant,
            "ostinato.request_id": pooled.request,
            **{name: value for name, value in told.items() if value != ""},
        },
        problem=pooled.problem,
        sampled=context.sampled,
    )
