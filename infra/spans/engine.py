"""Spans of engine requests: how long each waited, computed its prompt and wrote, and the steps it was in. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from infra.spans.names import Names
from infra.spans.span import Link, Moment, Span
from schemas.steps import Served
from schemas.tracing import span_id, trace_context

_MOST_LINKS = 128
"""What SDKs keep of links, unless told otherwise."""
_REQUEST = re.compile(r"([^/]*)/([^/]*)/([^~.]*)(.*)", re.DOTALL)


class Asked(NamedTuple):
    """What an engine request was made for."""

    tenant: str
    thread: str
    effect: str


def asked_by(served: Served) -> Asked:
    """Say what a request was made for: its id tells."""
    found = _REQUEST.fullmatch(served.request)
    return Asked(found[1], found[2], found[3]) if found else Asked("", "", served.request)


def engine_span(engine: str, served: Served, names: Names, whose: Mapping[str, str]) -> Span:
    """Tell of a request that is over: beneath the span of the model call that made it, and as `whose` as that is."""
    tenant, thread, effect = asked_by(served)
    context = trace_context(served.traceparent, tenant, thread)
    times = ((served.began, "scheduled"), (served.first, "first token"))
    attributes = {
        names.request_id: served.request,
        names.response_model: engine,
        names.input_tokens: served.prompt_tokens,
        names.output_tokens: served.output_tokens,
        names.cached_tokens: served.cached,
        names.max_tokens: served.max_tokens,
        names.finish_reasons: [served.finish],
        names.e2e: _seconds(served.submitted, served.ended),
        "ostinato.scheduler": served.epoch,
        "ostinato.preemptions": served.preemptions,
        "ostinato.recomputed_tokens": served.recomputed,
        "ostinato.tenant": tenant,
        **whose,
    }
    if served.began:
        attributes[names.in_queue] = _seconds(served.submitted, served.began)
    if served.first:
        attributes[names.to_first_token] = _seconds(served.submitted, served.first)
        attributes[names.in_prefill] = _seconds(served.began, served.first)
        attributes[names.in_decode] = _seconds(served.first, served.ended)
        attributes[names.in_inference] = _seconds(served.began, served.ended)
    return Span(
        trace=context.trace,
        span=span_id(tenant, thread, f"engine {served.request} {served.epoch}"),
        parent=span_id(tenant, thread, effect),
        name="llm_request",
        start=served.submitted,
        end=served.ended,
        kind="server",
        attributes=attributes,
        problem=f"the request ended with {served.finish!r}" if served.finish in {"error", "timeout"} else "",
        links=tuple(_links(engine, served)),
        moments=tuple(Moment(name, time) for time, name in times if time),
        sampled=context.sampled,
    )


def _links(engine: str, served: Served) -> list[Link]:
    """Link the steps; `ostinato replay engine` shows them by these numbers."""
    steps = [n for first, last in served.steps for n in range(first, last + 1)]
    shown = steps if len(steps) <= _MOST_LINKS else [*steps[: _MOST_LINKS - 1], steps[-1]]
    trace = trace_context("", engine, served.epoch).trace
    about = {"ostinato.engine": engine, "ostinato.scheduler": served.epoch}
    return [Link(trace, span_id(engine, served.epoch, str(n)), {**about, "ostinato.step": n}) for n in shown]


def _seconds(start: int, end: int) -> float:
    return max(0, end - start) / 1e6
