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
    response_schema_conformance,
    status_code_conformance,
)

from tests.engine.models.test_pooled import write
from tests.engine.test_pooling import write_tokenizer
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
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
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
    key = json.loads(up.cli("keys", "create", "--json", "--name", "contract").stdout)["key"]
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


def ask(up: Keyed, cases: st.SearchStrategy[Any], there: dict[str, str], turn: int, examples: int) -> Counter[int]:
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
        asked[answer.status_code] += 1

    once()
    return asked


def go_round(up: Keyed, operations: Sequence[Any], turn: int, asked: dict[str, Counter[int]]) -> None:
    """Ask every route, and count the statuses of each."""
    there = made(up)
    # what there is is there until all else is asked
    for operation in sorted(operations, key=lambda one: str(one.method).upper() == "DELETE"):
        told = asked.setdefault(f"{operation.method.upper()} {operation.path}", Counter())
        examples = FEW if operation.path in WRITING else EXAMPLES
        for mode in schemathesis.GenerationMode:
            with contextlib.suppress(Unsatisfiable):  # nothing is wrong with a request that has nothing in it
                told += ask(up, operation.as_strategy(generation_mode=mode), there, turn, examples)


@pytest.mark.deadline(180)
def test_no_request_made_from_the_document_breaks_the_bridge(keyed: Keyed, document: dict[str, Any]) -> None:
    schema = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 50
    asked, begun = dict[str, Counter[int]](), time.monotonic()
    for turn in itertools.count():
        if turn and time.monotonic() - begun > LONG_S:
            break
        go_round(keyed, operations, turn, asked)
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
        *(f"POST {path}" for path in SHORT),
    }


def test_without_the_key_nothing_of_it_is_had(keyed: Keyed) -> None:
    assert httpx.get(f"{keyed.url}/v1/models", timeout=10).status_code == 401
