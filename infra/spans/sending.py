"""Hands spans to OpenTelemetry's own exporters, which the standard `OTEL_*` variables configure (extra `telemetry`)."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace import set_span_in_context as in_context

from infra.errors import ExporterUnknown, InfraError
from infra.spans.otlp import SCOPE
from infra.spans.span import Span

_KINDS = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "consumer": SpanKind.CONSUMER,
}
_OTLP = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}

CLOSE_S = 3.0
_BATCH: Final = 512
"""Spans that are sent at once, as the SDK does unless told otherwise."""


class NotSent(InfraError):
    """Spans were to be sent, and nobody took them."""

    def __init__(self, sent: int) -> None:
        super().__init__(f"nobody takes spans where the OTEL_EXPORTER_OTLP_* variables say: {sent} were taken before")
        self.sent = sent


class Sender(Protocol):
    """Takes spans."""

    def send(self, spans: Iterable[Span]) -> int:
        """Queue spans; say how many are to be sent."""

    def close(self, wait_s: float = CLOSE_S) -> None:
        """Send what is queued, within so many seconds."""


class SdkSender:
    """Sends in batches, from a thread of the SDK's own."""

    def __init__(self, exporter: SpanExporter, resource: Resource) -> None:
        """Send to `exporter`; sampling and batches are as the variables say."""
        self._resource = resource
        self._sampler = TracerProvider(resource=resource).sampler
        self._batches = BatchSpanProcessor(exporter)

    def send(self, spans: Iterable[Span]) -> int:
        """Queue those spans that are sampled."""
        sent = 0
        for span in spans:
            if self._sampled(span):
                self._batches.on_end(readable(span, self._resource))
                sent += 1
        return sent

    def close(self, wait_s: float = CLOSE_S) -> None:
        """Send what is queued; a collector that does not answer keeps nobody for longer than that."""
        last = threading.Thread(target=self._batches.shutdown, name="spans", daemon=True)
        last.start()
        last.join(wait_s)

    def _sampled(self, span: Span) -> bool:
        if not span.sampled:
            return False
        # the whole trace goes or stays, whoever made a part of it: no span of ours is any other's sampling parent
        trace = int(span.trace, 16)
        parent = NonRecordingSpan(_context(span.trace, span.parent or span.span))
        decision = self._sampler.should_sample(in_context(parent), trace, span.name).decision
        return decision is Decision.RECORD_AND_SAMPLE


class WholeSender:
    """Sends all it is given, whether anybody sampled it or not, and knows that it has come."""

    def __init__(self, exporter: SpanExporter, resource: Resource) -> None:
        """Send to `exporter`."""
        self._exporter = exporter
        self._resource = resource
        self._sent = 0

    def send(self, spans: Sequence[Span]) -> None:
        """Send spans, and wait until they are taken.

        Raises:
            NotSent: they are not, however often the exporter tried.
        """
        for first in range(0, len(spans), _BATCH):
            batch = [readable(span, self._resource) for span in spans[first : first + _BATCH]]
            if self._exporter.export(batch) is not SpanExportResult.SUCCESS:
                raise NotSent(self._sent)
            self._sent += len(batch)

    def close(self) -> None:
        """Let go of the connection."""
        self._exporter.shutdown()


def readable(span: Span, resource: Resource) -> ReadableSpan:
    """Give a span in the SDK's form."""
    return ReadableSpan(
        name=span.name,
        context=_context(span.trace, span.span),
        parent=_context(span.trace, span.parent) if span.parent else None,
        resource=resource,
        attributes=span.attributes,
        events=[Event(one.name, dict(one.attributes), one.time * 1000) for one in span.moments],
        links=[Link(_context(one.trace, one.span), dict(one.attributes)) for one in span.links],
        kind=_KINDS[span.kind],
        status=Status(StatusCode.ERROR, span.problem) if span.problem else Status(StatusCode.UNSET),
        start_time=span.start * 1000,
        end_time=span.end * 1000,
        instrumentation_scope=InstrumentationScope(SCOPE),
    )


def sender_from(environment: Mapping[str, str] = os.environ) -> SdkSender:
    """Make the sender that the variables ask for: `OTEL_TRACES_EXPORTER`, `OTEL_EXPORTER_OTLP_PROTOCOL` and theirs.

    Raises:
        ExporterUnknown: they name none that there is.
    """
    return SdkSender(*_asked_for(environment))


def whole_sender_from(environment: Mapping[str, str] = os.environ) -> WholeSender:
    """Make the one that leaves nothing out, likewise.

    Raises:
        ExporterUnknown: they name none that there is.
    """
    return WholeSender(*_asked_for(environment))


def _asked_for(environment: Mapping[str, str]) -> tuple[SpanExporter, Resource]:
    resource = Resource.create() if "OTEL_SERVICE_NAME" in environment else _named(Resource.create())
    wanted = environment.get("OTEL_TRACES_EXPORTER", "otlp")
    if wanted == "console":
        return ConsoleSpanExporter(), resource
    if wanted != "otlp":
        raise ExporterUnknown("OTEL_TRACES_EXPORTER", wanted, "otlp or console (none sends nothing)")
    general = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", general)
    if protocol not in _OTLP:
        raise ExporterUnknown("OTEL_EXPORTER_OTLP_PROTOCOL", protocol, " or ".join(_OTLP))
    exporter: SpanExporter = importlib.import_module(_OTLP[protocol]).OTLPSpanExporter()
    return exporter, resource


def _named(resource: Resource) -> Resource:
    named = str(resource.attributes.get(SERVICE_NAME, ""))
    return resource.merge(Resource({SERVICE_NAME: "ostinato"})) if named.startswith("unknown_service") else resource


def _context(trace: str, span: str) -> SpanContext:
    return SpanContext(int(trace, 16), int(span, 16), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
