"""Spans as OTLP's JSON: ids in hexadecimal, times in nanoseconds as texts, kinds and states as numbers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from infra.spans.span import Span

SCOPE: Final = "ostinato"
KINDS: Final = {"internal": 1, "server": 2, "client": 3, "consumer": 5}
_ERROR: Final = 2


def request(spans: Sequence[Span], resource: Mapping[str, Any]) -> dict[str, Any]:
    """Give what is sent to a collector's `/v1/traces`, or written to a file."""
    scoped = {"scope": {"name": SCOPE}, "spans": [_span(span) for span in spans]}
    return {"resourceSpans": [{"resource": {"attributes": _attributes(resource)}, "scopeSpans": [scoped]}]}


def _span(span: Span) -> dict[str, Any]:
    told: dict[str, Any] = {
        "traceId": span.trace,
        "spanId": span.span,
        "name": span.name,
        "kind": KINDS[span.kind],
        "startTimeUnixNano": str(span.start * 1000),
        "endTimeUnixNano": str(span.end * 1000),
        "attributes": _attributes(span.attributes),
        "flags": int(span.sampled),
        "status": {"code": _ERROR, "message": span.problem} if span.problem else {},
    }
    if span.parent:
        told["parentSpanId"] = span.parent
    if span.moments:
        told["events"] = [
            {"name": one.name, "timeUnixNano": str(one.time * 1000), "attributes": _attributes(one.attributes)}
            for one in span.moments
        ]
    if span.links:
        told["links"] = [
            {"traceId": one.trace, "spanId": one.span, "attributes": _attributes(one.attributes)} for one in span.links
        ]
    return told


def _attributes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case str():
            return {"stringValue": value}
        case _:
            return {"arrayValue": {"values": [_value(one) for one in value]}}
