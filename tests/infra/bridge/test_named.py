"""The id of a request leads to what is known of it: the log, the command, the spans; its client's user to theirs."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from typing import Any, NoReturn

import httpx
import pytest

from bus.store import StoredEvent
from infra.serving import serving
from infra.settings import AccessSettings, LimitSettings
from infra.spans.content import NoContent
from infra.spans.engine import engine_span
from infra.spans.fold import ThreadSpans
from infra.spans.names import NAMES
from infra.spans.span import Span
from infra.telemetry import JsonLines
from schemas import codec
from schemas.commands import Command
from schemas.envelope import Fact
from schemas.generation import Sampling
from schemas.messages import Usage
from schemas.runs import CommandAccepted, Event, ModelCalled, ModelReturned
from schemas.steps import Served
from tests.infra.bridge.doors import Scripted, everything

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"x-request-id": "MYREQ77", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What is logged meanwhile, as a process writes it."""
    lines: list[dict[str, Any]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonLines("host").format(record)))

    handler = Kept()
    # a server of another test may have set uvicorn's own logging up
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)
    logging.getLogger().addHandler(handler)
    yield lines
    logging.getLogger().removeHandler(handler)


def broken(command: Command) -> NoReturn:
    raise RuntimeError("something that nobody thought of")


@pytest.mark.anyio
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_internal_error_is_found_in_the_log_by_the_id_of_its_request(
    monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, Any]], streamed: bool
) -> None:
    application = Scripted(monkeypatch, broken).application
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with serving(application, AccessSettings(), LimitSettings(), listening), httpx.AsyncClient() as client:
            asked = {**CHAT, "stream": streamed}
            answers = [
                await client.post(f"{url}/v1/chat/completions", json=asked, headers=headers)
                for headers in (HEADERS, {"x-request-id": "other"})
            ]
            await client.get(f"{url}/health")
    assert [answer.status_code for answer in answers] == [500, 500]
    assert [answer.headers["x-request-id"] for answer in answers] == ["MYREQ77", "other"]
    found = {line["request_id"]: line for line in logged if "something that nobody thought of" in line.get("error", "")}
    assert list(found) == ["MYREQ77", "other"]
    assert "Traceback" in found["MYREQ77"]["error"]
    assert found["MYREQ77"]["trace_id"] == TRACE
    # where a client names none, it is the trace that begins with the command
    assert len(found["other"]["trace_id"]) == 32
    assert found["other"]["trace_id"] != TRACE


def asked(door: Scripted, path: str, body: object, headers: dict[str, str] | None = None) -> httpx.Response:
    return door.send("POST", path, headers, json.dumps(body).encode())


def spans_of(command: Command) -> list[Span]:
    """The spans of a generation, its engine request's last."""
    call = ModelCalled(f"{command.id}-1-m", "m", 1, 1, "", Sampling())
    told: list[Event] = [CommandAccepted(command), call, ModelReturned(call.effect, "hi", "stop", Usage())]
    fold = ThreadSpans(command.tenant, command.thread, NAMES["1.41"], NoContent())
    spans = list[Span]()
    for at, event in enumerate(told, 1):
        fact = Fact(
            tenant=command.tenant,
            thread=command.thread,
            kind="generation",
            entity=command.id,
            version=at,
            type=codec.tag(event),
            cause=command.id,
            payload=codec.payload(event),
            traceparent=command.traceparent,
        )
        spans += fold.take(StoredEvent(1, at, 0, at * 1_000_000, fact))
    served = Served("e1", 1, f"{command.tenant}/{command.thread}/{call.effect}", 1, 2, 3, 4, "stop", 5, 6)
    return [*spans, engine_span("m", served, NAMES["1.41"], fold.whose(call.effect))]


def test_the_id_and_the_trace_go_with_the_command_and_stand_on_the_request_s_span(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    door = Scripted(monkeypatch, everything)
    assert asked(door, "/v1/chat/completions", CHAT, HEADERS).status_code == 200
    (command,) = door.commands
    assert command.request_id == "MYREQ77"
    (request,) = [span for span in spans_of(command) if span.name == "generate m"]
    assert request.attributes["ostinato.request_id"] == "MYREQ77"
    assert request.trace == TRACE


@pytest.mark.parametrize(
    ("path", "more", "session"),
    [
        ("/v1/chat/completions", {**CHAT, "user": "ada", "session_id": "s1"}, "s1"),
        ("/v1/chat/completions", {**CHAT, "safety_identifier": "ada"}, ""),
        ("/v1/completions", {"model": "m", "prompt": "hi", "user": "ada", "session_id": "s1"}, "s1"),
        ("/v1/responses", {"model": "m", "input": "hi", "safety_identifier": "ada"}, ""),
        ("/v1/messages", {**CHAT, "max_tokens": 9, "metadata": {"user_id": "ada"}}, ""),
    ],
)
def test_every_span_of_a_generation_has_the_user_and_the_session_that_its_client_names(
    monkeypatch: pytest.MonkeyPatch, path: str, more: dict[str, Any], session: str
) -> None:
    door = Scripted(monkeypatch, everything)
    assert asked(door, path, more).status_code == 200
    (command,) = door.commands
    spans = spans_of(command)
    assert sorted(span.name for span in spans) == ["chat m", "generate m", "llm_request"]
    for span in spans:
        assert span.attributes["user.id"] == "ada", span.name
        assert span.attributes["session.id"] == (session or command.thread), span.name


def test_who_names_no_user_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Scripted(monkeypatch, everything)
    assert asked(door, "/v1/chat/completions", CHAT).status_code == 200
    assert all("user.id" not in span.attributes for span in spans_of(door.commands[0]))
