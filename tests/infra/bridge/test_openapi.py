"""The document of all routes."""

from __future__ import annotations

import json
from typing import Any, cast

import httpx
import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from infra.bridge.doors import Door
from infra.bridge.openai import BadRequest
from tests.infra.bridge.documented import documented, untyped
from tests.infra.bridge.doors import Scripted


@pytest.fixture
def bridge(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(monkeypatch, lambda command: [])


@pytest.fixture
def told(bridge: Scripted) -> dict[str, Any]:
    answer = bridge.send("GET", "/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    return cast("dict[str, Any]", answer.json())


def test_it_is_a_document_of_openapi_3_1(told: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(told).validate()
    assert told["openapi"].startswith("3.1.")


def test_every_route_is_in_it_with_each_of_its_methods(bridge: Scripted, told: dict[str, Any]) -> None:
    doors = [route for route in bridge.application.routes if isinstance(route, Door)]
    there = {
        (door.path.replace(":path", ""), method) for door in doors for method in (door.methods or set()) - {"HEAD"}
    }
    assert there == {(path, method.upper()) for path, them in told["paths"].items() for method in them}
    assert len(there) > 50


def test_each_is_told_once_under_a_name_of_its_own_and_says_what_it_does(told: dict[str, Any]) -> None:
    operations = [operation for methods in told["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert all(operation["summary"] for operation in operations)


def test_what_a_key_opens_says_so(told: dict[str, Any]) -> None:
    assert "security" not in told["paths"]["/health"]["get"]
    agents = told["paths"]["/api/agents"]["get"]
    assert {"bearer": []} in agents["security"]
    assert "agents" in agents["description"]


def test_a_body_and_an_answer_are_described_by_their_types(told: dict[str, Any]) -> None:
    start = told["paths"]["/api/threads/{thread}/runs"]["post"]
    assert start["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/StartRun"}
    assert {status for status in start["responses"] if status < "300"} == {"200", "202"}
    assert "text/event-stream" in start["responses"]["200"]["content"]
    shape = told["components"]["schemas"]["StartRun"]
    assert shape["required"] == ["agent"]
    assert shape["properties"]["when_busy"]["enum"] == ["queue", "replace", "steer"]


BARE = {
    ("/api/recall/unindexed/retry", "post"),
    ("/reset_prefix_cache", "post"),
    ("/v1/responses/{response_id}/cancel", "post"),
    ("/ag-ui/{agent}/threads/{thread_id}/stop", "post"),
    *((f"{path}/{{chat_id}}/stop", "post") for path in ("/api/chat", "/api/agents/{agent}/chat")),
    *((f"/api/schedules/{{schedule}}/{verb}", "post") for verb in ("pause", "resume", "run")),
}
"""Routes that do something and are told nothing more."""


def test_whatever_takes_a_body_says_which(told: dict[str, Any]) -> None:
    changing = {
        (path, method): "requestBody" in operation
        for path, methods in told["paths"].items()
        for method, operation in methods.items()
        if method in {"post", "put", "patch"}
    }
    assert {route for route, described in changing.items() if not described} == BARE


@pytest.mark.parametrize("path", ["/ag-ui/{agent}", "/api/chat", "/mcp", "/pooling", "/inference/v1/abort_requests"])
def test_what_it_says_of_a_body_is_how_the_body_is_read(told: dict[str, Any], path: str) -> None:
    body = told["paths"][path]["post"]["requestBody"]
    shape = told["components"]["schemas"][body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]]
    assert body["required"]
    assert shape["required"]


def test_whatever_answers_says_with_what(told: dict[str, Any]) -> None:
    # 200 with nothing in it, as vLLM has it
    assert untyped(told) == {("POST", "/inference/v1/abort_requests")}
    without = {**told, "paths": {"/version": {"get": {"responses": {"200": {}, "404": told["paths"]["/version"]}}}}}
    assert untyped(without) == {("GET", "/version")}


def test_whatever_goes_wrong_is_told_as_the_protocol_tells_it(bridge: Scripted, told: dict[str, Any]) -> None:
    doors = {
        (door.path.replace(":path", ""), method.lower()): door
        for door in bridge.application.routes
        if isinstance(door, Door)
        for method in door.methods or ()
    }
    held, asked = documented(bridge.application), 0
    told["paths"]["/health"]["get"]["responses"].pop("503")  # that tells how it does
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            # headers that are too large are told before it is known what was asked
            for status in sorted({one for one in operation["responses"] if one >= "400"} - {"431"}):
                problem = BadRequest(int(status), "no", "field", "code", retry_after_ms=1)
                headers = {"content-type": "application/json", "x-request-id": "r"}
                content = msgspec.json.encode(doors[path, method].shape(problem))
                held.hold(
                    method,
                    path.replace("{", "").replace("}", ""),
                    httpx.Response(int(status), headers=headers, content=content),
                )
                asked += 1
    assert asked > 300
    keyed = told["paths"]["/v1/messages"]["post"]["responses"]
    limits = told["components"]["responses"][keyed["429"]["$ref"].rpartition("/")[2]]["headers"]
    assert {"retry-after", "retry-after-ms", "x-ratelimit-remaining-requests"} <= limits.keys()


@pytest.mark.parametrize(
    ("path", "status", "content", "wrong"),
    [
        ("/version", 200, b'{"version": "1", "more": 1}', "more"),
        ("/version", 200, b"{}", "version"),
        ("/version", 418, b'{"version": "1"}', "not in the document"),
        ("/v1/models", 200, b'{"object": "list", "data": [{}], "has_more": false}', "created"),
        ("/v1/models", 404, b'{"error": "no"}', "not in the document"),
        ("/v1/models/m/n", 404, b'{"error": "no"}', "no"),
    ],
)
def test_what_is_otherwise_than_in_the_document_is_found(
    bridge: Scripted, path: str, status: int, content: bytes, wrong: str
) -> None:
    headers = {"content-type": "application/json", "x-request-id": "r"}
    with pytest.raises(AssertionError, match=wrong):
        documented(bridge.application).hold("GET", path, httpx.Response(status, headers=headers, content=content))


@pytest.mark.parametrize("event", ['{"object": "chat.completion.chunk"}', "{}", '{"error": {}}'])
def test_an_event_that_is_otherwise_than_in_the_document_is_found(bridge: Scripted, event: str) -> None:
    headers = {"content-type": "text/event-stream; charset=utf-8", "x-request-id": "r"}
    answer = httpx.Response(200, headers=headers, content=f": idle\n\ndata: {event}\n\ndata: [DONE]\n\n".encode())
    with pytest.raises(AssertionError, match="otherwise"):
        documented(bridge.application).hold("POST", "/v1/chat/completions", answer)


def test_events_of_a_stream_are_described_where_they_are_of_this_api(told: dict[str, Any]) -> None:
    events = told["paths"]["/api/threads/{thread}/runs/{run}/events"]["get"]
    stream = events["responses"]["200"]["content"]["text/event-stream"]
    of_a_run, _error = stream["schema"]["properties"]["data"]["contentSchema"]["anyOf"]
    kinds = of_a_run["discriminator"]["mapping"]
    assert set(kinds) == {"committed", "delta", "progress"}
    piece = told["components"]["schemas"][kinds["delta"].rpartition("/")[2]]
    assert set(piece["properties"]) == {"frame", "kind", "call", "tool", "offset", "text"}
    assert {(one["name"], one["in"]) for one in events["parameters"]} >= {
        ("last-event-id", "header"),
        ("last_event_id", "query"),
    }


def test_parameters_are_described_and_strange_ones_refused(bridge: Scripted, told: dict[str, Any]) -> None:
    parameters = {one["name"]: one for one in told["paths"]["/api/threads"]["get"]["parameters"]}
    assert set(parameters) == {"resource", "text", "before", "limit"}
    assert (parameters["limit"]["schema"]["minimum"], parameters["limit"]["schema"]["maximum"]) == (1, 200)
    for query, param in (("limit=0", "limit"), ("limit=many", "limit"), ("page=2", "page")):
        answer: httpx.Response = bridge.send("GET", f"/api/threads?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "/api/runs", {"agent": "nobody", "text": "x"}, 404, "agent"),
        ("POST", "/api/runs", {"text": "x"}, 400, "agent"),
        ("POST", "/api/runs", {"agent": "demo", "text": "x", "wait_s": -1}, 400, "wait_s"),
        ("POST", "/api/runs", {"agent": "demo", "text": "x", "strange": 1}, 400, None),
        ("GET", "/api/agents/nobody", None, 404, "agent"),
        ("GET", "/api/threads/no%20thread/messages", None, 404, "thread"),
        ("POST", "/api/threads/t1/waits/e1/approve", {}, 400, "arguments"),
        ("PUT", "/api/schedules/s1", {"cron": "* * * * *"}, 400, "agent"),
        ("GET", "/api/threads/t1/runs/r1", None, 404, "run"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(
    bridge: Scripted, method: str, path: str, body: object, status: int, param: str | None
) -> None:
    answer = bridge.send(method, path, body=b"" if body is None else json.dumps(body).encode())
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


def test_an_id_that_is_none_of_a_stream_is_refused(bridge: Scripted) -> None:
    for given in ("x", "1.2", "-1", "1.2.3.4", "1" * 20):
        answer = bridge.send("GET", "/api/threads/t1/runs/r1/events", {"last-event-id": given})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "last-event-id"), given
