"""Spans as they are sent while things happen: to the SDK's own exporters, and over the network to receivers."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from msgspec.structs import replace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from actors.runtime.context import SystemChance
from bus import subjects
from bus.connection import Connection
from bus.erasure import destroy
from bus.keyring import Keyring
from bus.store import Store, StoredEvent
from infra.bundles import Bundle
from infra.cli.replay.otel import all_spans, requests_of
from infra.errors import ExporterUnknown
from infra.settings import TelemetrySettings
from infra.spans.content import NoContent
from infra.spans.exporting import SpanExport
from infra.spans.names import NAMES
from infra.spans.otlp import request
from infra.spans.sending import NotSent, SdkSender, readable, sender_from, whole_sender_from
from infra.spans.span import Span
from infra.spans.wanted import sender, wanted, whole_sender
from schemas import codec
from schemas.commands import RunAgent
from schemas.runs import CommandAccepted
from schemas.steps import Served
from tests.bus.recording import record
from tests.bus.test_keyring import giving
from tests.conftest import History

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(30)]

GOLDEN = Path(__file__).parents[2] / "golden" / "threads"


def by_ada(first: StoredEvent) -> StoredEvent:
    """A thread's first event, as a client that names a user would have asked."""
    accepted = codec.event_of(first.fact)
    assert isinstance(accepted, CommandAccepted)
    assert isinstance(accepted.command.data, RunAgent)
    asked = replace(accepted.command, data=replace(accepted.command.data, note={"user": "ada"}))
    return first._replace(fact=replace(first.fact, payload=codec.payload(CommandAccepted(asked))))


RECORDED = next(events for events in Bundle(GOLDEN / "0.1.0.jsonl").threads() if events[0].fact.thread == "approved")
EVENTS = [by_ada(RECORDED[0]), *RECORDED[1:]]
WHERE = Resource({"service.name": "ostinato"})
SPAN = Span("ab" * 16, "cd" * 8, "", "chat tiny", 1_700_000_000_000_000, 1_700_000_000_500_000, "client", {"a": 1})


async def happen(history: History, events: list[StoredEvent]) -> None:
    """Have a recorded thread happen again, and its engine requests with it."""
    for event in events:
        await history.commit(0, [event.fact], time=event.time)
    for n, name in enumerate(requests_of(events), 1):
        await history.step(n, [name])
        times = tuple(events[0].time + offset for offset in (1000, 2000, 3000, 4000))
        served = Served(
            "epoch1", n, name, *times, "stop", 20, 4, steps=((n, n),), traceparent=events[0].fact.traceparent
        )
        await history.publish(subjects.served("tiny"), codec.encode(served))


async def followed(export: SpanExport) -> None:
    while await export.look():
        pass


def shown(spans: list[ReadableSpan] | tuple[ReadableSpan, ...]) -> list[str]:
    return sorted(span.to_json(indent=None) for span in spans)


async def test_spans_sent_live_are_those_that_an_export_makes_of_the_log(
    history: History, connection: Connection, store: Store
) -> None:
    memory = InMemorySpanExporter()
    sender = SdkSender(memory, WHERE)
    export = SpanExport(store, sender, NAMES["1.41"], NoContent())
    await export.begin()
    half = len(EVENTS) // 2
    for some in (EVENTS[:half], EVENTS[half:]):
        await happen(history, some)
        await record(connection, store)
        await followed(export)
    await asyncio.to_thread(sender.close)
    live = memory.get_finished_spans()
    events = await store.events_of_thread("default", "approved")
    rebuilt = await all_spans(store, events, NAMES["1.41"], NoContent())
    assert len(live) == len(rebuilt) > 10
    assert shown(live) == shown([readable(span, WHERE) for span in rebuilt])
    assert export.statistics()["exported"] == len(live)
    engine = next(span for span in live if span.name == "llm_request")
    assert dict(engine.attributes or {}).items() >= {"user.id": "ada", "session.id": "approved"}.items()
    assert {span.name for span in live} >= {"llm_request", "execute_tool calculator", "invoke_agent careful"}


async def test_who_begins_to_follow_in_the_middle_of_a_run_sends_the_whole_of_what_ends_after(
    history: History, connection: Connection, store: Store
) -> None:
    await happen(history, EVENTS[:6])
    await record(connection, store)
    memory = InMemorySpanExporter()
    sender = SdkSender(memory, WHERE)
    export = SpanExport(store, sender, NAMES["1.41"], NoContent())
    await export.begin()
    await happen(history, EVENTS[6:])
    await record(connection, store)
    await followed(export)
    await asyncio.to_thread(sender.close)
    run = next(span for span in memory.get_finished_spans() if span.name == "invoke_agent careful")
    assert run.start_time == EVENTS[2].time * 1000


async def test_what_is_sealed_is_told_live_and_what_was_erased_or_cannot_be_read_holds_up_nothing(
    history: History, connection: Connection, store: Store
) -> None:
    ring = Keyring(giving(store), b"a master key that is hard to guess", SystemChance(), seals=True)
    key = await ring.fresh()
    facts = [ring.sealed(replace(event.fact, key=key)) for event in EVENTS]
    memory = InMemorySpanExporter()
    sender = SdkSender(memory, WHERE)
    export = SpanExport(store, sender, NAMES["1.41"], NoContent())
    await export.begin()
    strange = replace(EVENTS[0].fact, thread="strange", entity="strange", type="thread.dreamt")
    for fact in (strange, *facts):
        await history.commit(0, [fact])
    await record(connection, store)
    store.keys = ring
    await followed(export)
    await asyncio.to_thread(sender.close)
    assert {"execute_tool calculator", "invoke_agent careful"} <= {span.name for span in memory.get_finished_spans()}
    await destroy(store, {key}, "default", "approved")
    ring.forget({key})
    again = SpanExport(store, SdkSender(InMemorySpanExporter(), WHERE), NAMES["1.41"], NoContent())
    await again.look()
    assert again.statistics()["exported"] == 0
    assert await all_spans(store, await store.events_of_thread("default", "approved"), NAMES["1.41"], NoContent()) == []


@contextmanager
def http_receiver(status: int = 200) -> Iterator[tuple[str, list[ExportTraceServiceRequest], list[str]]]:
    """A collector's HTTP door, which always answers so: what it was sent, and to which paths."""
    heard: list[ExportTraceServiceRequest] = []
    paths: list[str] = []

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            heard.append(ExportTraceServiceRequest.FromString(body))
            paths.append(self.path)
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the parent's name for it
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", heard, paths
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_spans_go_over_http_to_where_the_standard_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_receiver() as (url, heard, paths):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
        sender = sender_from({"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_SERVICE_NAME": "mine"})
        assert sender.send([SPAN]) == 1
        sender.close()
    assert paths == ["/v1/traces"]
    (resource,) = heard[0].resource_spans
    assert "mine" in str(resource.resource)
    (sent,) = resource.scope_spans[0].spans
    assert (sent.trace_id.hex(), sent.span_id.hex(), sent.name) == (SPAN.trace, SPAN.span, SPAN.name)


def test_spans_go_over_grpc_where_that_is_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[ExportTraceServiceRequest] = []

    class Door(TraceServiceServicer):  # type: ignore[misc]  # generated, without types
        def Export(  # noqa: N802  the service's name for it
            self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
        ) -> ExportTraceServiceResponse:
            heard.append(request)
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(1))
    add_TraceServiceServicer_to_server(Door(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        sender = sender_from({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
        sender.send([SPAN])
        sender.close()
    finally:
        server.stop(None).wait()
    assert heard[0].resource_spans[0].scope_spans[0].spans[0].span_id.hex() == SPAN.span


def test_the_json_that_is_written_to_a_file_is_what_the_sdk_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_receiver() as (url, heard, _):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        sender = SdkSender(sender_from({})._batches._batch_processor._exporter, WHERE)  # type: ignore[attr-defined]
        sender.send([SPAN])
        sender.close()
    sent = MessageToDict(heard[0].resource_spans[0].scope_spans[0].spans[0])
    ours = request([SPAN], {})["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    for key in ("name", "startTimeUnixNano", "endTimeUnixNano", "attributes"):
        assert sent[key] == ours[key]
    assert sent["kind"] == "SPAN_KIND_CLIENT"
    assert ours["kind"] == 3


def test_a_trace_that_its_caller_does_not_want_sampled_is_not_sent() -> None:
    sender = SdkSender(InMemorySpanExporter(), WHERE)
    unwanted = Span(*("ab" * 16, "cd" * 8, "", "chat", 1, 2), sampled=False)
    assert sender.send([unwanted, SPAN]) == 1
    sender.close()


def sent_to(heard: list[ExportTraceServiceRequest]) -> list[str]:
    scopes = [scope for one in heard for resource in one.resource_spans for scope in resource.scope_spans]
    return [span.span_id.hex() for scope in scopes for span in scope.spans]


def test_who_asks_for_spans_of_the_log_has_all_of_them_sampled_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = [Span("ab" * 16, f"{n:016x}", "", "chat", 1, 2, sampled=n % 2 == 0) for n in range(1, 3001)]
    with http_receiver() as (url, heard, _):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
        sender = whole_sender_from({})
        sender.send(spans)  # more than the SDK's queue would hold
        sender.close()
    assert sent_to(heard) == [span.span for span in spans]


def test_spans_that_nobody_takes_are_not_said_to_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_receiver(400) as (url, _, _):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        sender = whole_sender_from({})
        with pytest.raises(NotSent, match="0 were taken before"):
            sender.send([SPAN])
        sender.close()


def test_variables_that_name_no_exporter_are_refused_by_name() -> None:
    with pytest.raises(ExporterUnknown, match=r"OTEL_EXPORTER_OTLP_PROTOCOL is 'pigeon'"):
        sender_from({"OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon"})
    with pytest.raises(ExporterUnknown, match="OTEL_TRACES_EXPORTER is 'zipkin'"):
        whole_sender_from({"OTEL_TRACES_EXPORTER": "zipkin"})


@pytest.mark.parametrize("make", [sender, whole_sender])
def test_an_exporter_that_is_not_installed_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[dict[str, str]], object]
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(ExporterUnknown, match=r"pip install 'ostinato\[telemetry\]'"):
        make({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})


def test_spans_are_sent_where_a_variable_says_where_to_unless_they_are_turned_off() -> None:
    there = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    assert not wanted(TelemetrySettings(), {})
    assert wanted(TelemetrySettings(), there)
    assert wanted(TelemetrySettings(spans="on"), {})
    assert not wanted(TelemetrySettings(spans="off"), there)
    assert not wanted(TelemetrySettings(), {**there, "OTEL_SDK_DISABLED": "true"})
    assert not wanted(TelemetrySettings(), {**there, "OTEL_TRACES_EXPORTER": "none"})
