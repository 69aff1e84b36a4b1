"""The bridge keeps to its own document: requests made from it, good ones and bad ones, never come to a 5xx.

By Schemathesis, which draws requests from the document's schemas and checks the answers against it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from infra.bridge.callers import ALL_SCOPES
from tests.engine.models.test_pooled import write
from tests.engine.test_pooling import write_tokenizer
from tests.infra.bridge.documented import Documented, untyped
from tests.system.conftest import start

pytestmark = pytest.mark.servers

MODEL = "ostinato-mini"
EXAMPLES = 5
"""Of requests to each route and round, as often that fit the document and that do not."""
FEW = 3
"""Of those that have a model write."""
LONG_S = 10.0
"""After so long no further round is begun, with other requests; there is always one."""
WRITING = {
    *("/ag-ui/{agent}", "/api/agents/{agent}/chat", "/api/chat", "/api/runs", "/api/threads/{thread}/runs"),
    *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"),
}
VECTORS = "vectors"
POOLING = {"/v1/embeddings", "/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"}
SAID = [{"role": "user", "content": "Hi!"}]
SHORT: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": SAID, "max_tokens": 4, "n": 1},
    "/v1/completions": {"prompt": "Hi!", "max_tokens": 4, "n": 1},
    "/v1/messages": {"messages": SAID, "max_tokens": 4},
    "/v1/responses": {"input": "Hi!", "max_output_tokens": 4},
    "/v1/embeddings": {"input": "Hi!"},
    "/pooling": {"input": "Hi!"},
}
"""Good and short requests of the models: every other one is such, with some of the fields that were drawn."""
CHECKS = [
    *(not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance),
    response_headers_conformance,
]
UNTYPED = {
    ("POST", "/inference/v1/abort_requests"),  # 200 with nothing in it, as vLLM has it
    ("GET", "/v1/files/{file_id}/content"),  # whatever bytes the file has
}
"""Routes that have no type for what they answer."""
BOUND = {"max_tokens": 4, "stream": False, "wait_s": 0}
"""What keeps an answer short, where a request would have it."""


@dataclass(frozen=True)
class Keyed:
    """A stack that lets nobody in without a key, beside a model that gives vectors."""

    url: str
    headers: dict[str, str]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, headers=self.headers)


@pytest.fixture(scope="module")
def keyed(system_folder: Path) -> Iterator[Keyed]:
    encoder = system_folder / "contract-vectors"
    encoder.mkdir()
    write(encoder, "BertModel", pad_token_id=0)
    write_tokenizer(encoder, "bert")
    settings = system_folder / "contract.toml"
    told = f'[access]\nrequired = "always"\n[pooling]\nmodel = "{encoder}"\nname = "{VECTORS}"\n'
    settings.write_text(told, encoding="utf-8")
    up = start(system_folder / "contract", "--config", str(settings))
    scopes = [part for scope in sorted(ALL_SCOPES) for part in ("--scope", scope)]
    key = json.loads(up.cli("keys", "create", "--json", "--name", "contract", *scopes).stdout)["key"]
    yield Keyed(up.url, {"authorization": f"Bearer {key}"})
    assert up.stop() == 0


@pytest.fixture(scope="module")
def document(keyed: Keyed) -> dict[str, Any]:
    with keyed.client() as client:
        found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def made(up: Keyed) -> dict[str, str]:
    """Have a thread, a run, a response, a file and the like; say what each is called where a path names one."""
    with up.client() as client:
        run = client.post("/api/runs", json={"agent": "demo", "text": "Hello!", "wait_s": 30}).json()
        response = client.post("/v1/responses", json={"model": MODEL, "input": "Hi!", "max_output_tokens": 4}).json()
        schedule = client.put("/api/schedules/daily", json={"cron": "0 3 * * *", "agent": "demo", "text": "Hi!"})
        assert schedule.status_code == 200
        line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}
        line["body"] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi!"}], "max_tokens": 1}
        file = client.post(
            "/v1/files", files={"file": ("a.jsonl", json.dumps(line).encode())}, data={"purpose": "batch"}
        ).json()
        asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = client.post("/v1/batches", json=asked).json()
        return {
            "agent": "demo",
            "thread": run["thread"],
            "thread_id": run["thread"],
            "chat_id": run["thread"],
            "run": run["run"],
            "response_id": response["id"],
            "schedule": "daily",
            "model": MODEL,
            "file_id": file["id"],
            "batch_id": batch["id"],
        }


def few(body: dict[str, Any], count: int) -> dict[str, Any]:
    """Leave of a body so many fields, other ones each time."""
    names = sorted(body)
    return {name: body[name] for name in (names[(at * 7 + count) % len(names)] for at in range(count))}


def ask(
    up: Keyed, held: Documented, cases: st.SearchStrategy[Any], there: dict[str, str], turn: int, examples: int
) -> Counter[int]:
    """Make some requests, every other one of what there is; count the statuses."""
    asked, turns, fields = Counter[int](), itertools.count(), itertools.count()

    @settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @seed(turn)
    @given(case=cases)
    def once(case: Any) -> None:
        if isinstance(case.body, dict):
            case.body |= {name: value for name, value in BOUND.items() if name in case.body}
        if next(turns) % 2 == 0:
            if case.path_parameters:
                case.path_parameters |= {name: there[name] for name in case.path_parameters if name in there}
            if isinstance(case.body, dict) and "model" in case.body:
                short = SHORT.get(case.path)
                case.body = case.body if short is None else few(case.body, next(fields)) | short
                case.body["model"] = VECTORS if case.path in POOLING else MODEL
        answer = case.call_and_validate(base_url=up.url, headers=up.headers, checks=CHECKS, timeout=60)
        headers = [(name, value) for name, values in answer.headers.items() for value in values]
        whole = httpx.Response(answer.status_code, headers=headers, content=answer.content)
        held.hold(case.method, case.formatted_path, whole)
        asked[answer.status_code] += 1

    once()
    return asked


def go_round(up: Keyed, held: Documented, operations: Sequence[Any], turn: int, asked: dict[str, Counter[int]]) -> None:
    """Ask every route, and count the statuses of each."""
    there = made(up)
    # what there is is there until all else is asked
    for operation in sorted(operations, key=lambda one: str(one.method).upper() == "DELETE"):
        told = asked.setdefault(f"{operation.method.upper()} {operation.path}", Counter())
        examples = FEW if operation.path in WRITING else EXAMPLES
        for mode in schemathesis.GenerationMode:
            with contextlib.suppress(Unsatisfiable):  # nothing is wrong with a request that has nothing in it
                told += ask(up, held, operation.as_strategy(generation_mode=mode), there, turn, examples)


@pytest.mark.deadline(180)
def test_no_request_made_from_the_document_breaks_the_bridge(keyed: Keyed, document: dict[str, Any]) -> None:
    schema = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 50
    asked, begun = dict[str, Counter[int]](), time.monotonic()
    for turn in itertools.count():
        if turn and time.monotonic() - begun > LONG_S:
            break
        go_round(keyed, Documented(document), operations, turn, asked)
    assert sum(told.total() for told in asked.values()) > 500
    found = {name for name, told in asked.items() if any(status < 300 for status in told)}
    # behind these stands what the ids name
    assert found >= {
        "GET /api/threads/{thread}",
        "GET /api/threads/{thread}/messages",
        "GET /api/threads/{thread}/usage",
        "GET /api/threads/{thread}/runs/{run}",
        "GET /api/threads/{thread}/runs/{run}/events",
        "GET /v1/responses/{response_id}",
        "GET /v1/files/{file_id}",
        "GET /v1/batches/{batch_id}",
        "GET /metrics",
        "POST /reset_prefix_cache",
        *(f"POST {path}" for path in SHORT),
    }


def test_every_route_says_what_it_answers_with(document: dict[str, Any]) -> None:
    assert untyped(document) == UNTYPED


TOOL = {"type": "object", "properties": {"city": {"enum": ["Bonn"]}}, "required": ["city"]}
ANY: dict[str, Any] = {"tools": [{"name": "w", "input_schema": TOOL}], "tool_choice": {"type": "any"}}
CALLED: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": TOOL}}
TALK = {"messages": [{"id": "m1", "role": "user", "content": "Hi!", "parts": [{"type": "text", "text": "Hi!"}]}]}
TELLING: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": SAID, "logprobs": True, "top_logprobs": 2, "n": 2, "max_tokens": 6}),
    ("/v1/chat/completions", {"messages": SAID, "prompt_logprobs": 1, "return_token_ids": True, "max_tokens": 3}),
    ("/v1/chat/completions", {"messages": SAID, "tools": [CALLED], "tool_choice": "required", "max_tokens": 60}),
    ("/v1/chat/completions", {"messages": SAID, "model": "agent/demo"}),
    ("/v1/completions", {"prompt": ["Hi!", "Ho!"], "logprobs": 2, "echo": True, "max_tokens": 3}),
    ("/v1/completions", {"prompt": "Hi!", "prompt_logprobs": 1, "return_token_ids": True, "max_tokens": 3}),
    ("/v1/responses", {"input": "Hi!", "top_logprobs": 2, "include": ["message.output_text.logprobs"]}),
    (
        "/v1/responses",
        {"input": "Hi!", "tools": [{"type": "function", **CALLED["function"]}], "tool_choice": "required"},
    ),
    ("/v1/responses", {"input": "Hi!", "model": "agent/demo"}),
    ("/v1/messages", {"messages": SAID, "max_tokens": 6}),
    (
        "/v1/messages",
        {"messages": SAID, "tools": [{"name": "w", "input_schema": TOOL}], "tool_choice": {"type": "any"}},
    ),
    ("/v1/messages", {"messages": SAID, "model": "agent/demo", "max_tokens": 60}),
    ("/api/runs", {"agent": "demo", "text": "Hi!", "wait_s": 30}),
]
"""What may be told whole and as a stream, with all that may be in it."""


@pytest.mark.parametrize(("path", "asked"), TELLING)
def test_what_is_told_whole_and_as_a_stream_is_as_the_document_says(
    keyed: Keyed, document: dict[str, Any], path: str, asked: dict[str, Any]
) -> None:
    held = Documented(document)
    body = {**({} if path.startswith("/api") else {"model": MODEL}), **asked}
    body |= {"max_tokens": 60} if path == "/v1/messages" and "max_tokens" not in body else {}
    usage = {"stream_options": {"include_usage": True}} if path.endswith("completions") else {}
    with keyed.client() as client:
        for how in ({"stream": False}, {"stream": True, **usage}):
            answer = client.post(path, json=body | how)
            assert answer.is_success, answer.text
            assert ("text/event-stream" in answer.headers["content-type"]) == how["stream"]
            held.hold("POST", path, answer)
            assert '"error":' not in answer.text or path == "/v1/responses", answer.text


def test_conversations_of_the_ai_sdk_and_of_ag_ui_are_as_the_document_says(
    keyed: Keyed, document: dict[str, Any]
) -> None:
    held = Documented(document)
    told: list[tuple[str, str, Any]] = [
        ("POST", "/api/chat", {"id": "contract", **TALK}),
        ("GET", "/api/chat/contract/messages", None),
        ("GET", "/api/chat/contract/stream", None),
        ("POST", "/ag-ui/demo", {"threadId": "contract-agui", "runId": "r1", **TALK}),
        ("POST", "/ag-ui/demo", {"threadId": "contract-agui", "runId": "r2", "messages": []}),
        ("GET", "/api/threads/contract/messages", None),
    ]
    with keyed.client() as client:
        for method, path, body in told:
            answer = client.request(method, path, json={**body, "agent": "demo"} if body else None)
            assert answer.is_success, answer.text
            held.hold(method, path, answer)
            assert answer.text or path.endswith("/stream")


ACCEPT = {"accept": "application/json, text/event-stream"}
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "contract", "version": "1"}}
RPC: list[tuple[int, Any, dict[str, str]]] = [
    (200, {"id": 1, "method": "initialize", "params": HELLO}, ACCEPT),
    (200, {"id": 2, "method": "tools/list"}, ACCEPT),
    (202, {"method": "notifications/initialized"}, ACCEPT),
    (200, {"id": 3, "method": "no/such"}, ACCEPT),
    (406, {"id": 4, "method": "ping"}, {"accept": "text/html"}),
    (415, {"id": 5, "method": "ping"}, {**ACCEPT, "content-type": "text/plain"}),
    (400, {"id": 6}, ACCEPT),
    (400, {"id": 7, "method": "ping"}, {**ACCEPT, "mcp-protocol-version": "1999-01-01"}),
]


@pytest.mark.parametrize(("status", "message", "headers"), RPC)
def test_messages_of_mcp_are_answered_as_the_document_says(
    keyed: Keyed, document: dict[str, Any], status: int, message: dict[str, Any], headers: dict[str, str]
) -> None:
    with keyed.client() as client:
        content = json.dumps({"jsonrpc": "2.0", **message})
        answer = client.post("/mcp", content=content, headers={"content-type": "application/json", **headers})
    assert answer.status_code == status, answer.text
    Documented(document).hold("POST", "/mcp", answer)


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
def test_metrics_are_told_as_the_document_says(keyed: Keyed, document: dict[str, Any], accept: str) -> None:
    with keyed.client() as client:
        answer = client.get("/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(accept.partition(";")[0])
    Documented(document).hold("GET", "/metrics", answer)


LONG = "x" * 600
WRONG: list[tuple[str, int]] = [
    (f"/api/resources/{LONG}/memory", 400),
    (f"/api/chat/{LONG}/messages", 400),
    (f"/api/chat/{LONG}/stream", 400),
    (f"/api/threads/{LONG}", 404),
    ("/api/threads?limit=many", 400),
    ("/v1/responses/resp_1?stream=perhaps", 400),
    ("/v1/responses/resp_1", 404),
    ("/v1/files?order=up", 400),
    ("/v1/files/file-1", 404),
    ("/v1/batches?limit=0", 400),
    ("/tokenizer_info?model=none", 404),
    ("/v1/models/none", 404),
]


@pytest.mark.parametrize(("path", "status"), WRONG)
def test_what_is_not_there_is_refused_as_the_document_says(
    keyed: Keyed, document: dict[str, Any], path: str, status: int
) -> None:
    with keyed.client() as client:
        answer = client.get(path)
    assert answer.status_code == status, answer.text
    Documented(document).hold("GET", path, answer)


def routes(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Name all routes, with something in the place of their parameters."""
    paths = document["paths"].items()
    return [(method.upper(), path.replace("{", "").replace("}", "")) for path, methods in paths for method in methods]


def test_every_route_refuses_as_the_document_says(keyed: Keyed, document: dict[str, Any]) -> None:
    held, statuses = Documented(document), Counter[int]()
    refused: list[dict[str, Any]] = [
        {"content": b"{", "headers": {"content-type": "application/json"}},
        {"content": b'{"a":' * 200, "headers": {"content-type": "application/json"}},
        {"content": b"\xff" * (5 << 20), "headers": {"content-type": "application/json"}},
        {"headers": {"x-large": "x" * (40 << 10)}},
        {"headers": {"authorization": "Bearer nobody"}},
    ]
    with keyed.client() as client:
        for method, path in routes(document):
            for wrong in refused:
                if "content" in wrong and method in {"GET", "DELETE"}:
                    continue
                answer = client.request(method, path, **wrong)
                held.hold(method, path, answer)
                statuses[answer.status_code] += 1
    assert statuses.keys() >= {400, 401, 413, 431}, statuses


def test_without_the_key_nothing_of_it_is_had(keyed: Keyed) -> None:
    assert httpx.get(f"{keyed.url}/v1/models", timeout=10).status_code == 401
