"""Keys that are one person's, on a whole stack: what others of the same tenant said is not there for their holders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.infra.bridge.documented import holding
from tests.system.conftest import UpProcess, start
from tests.system.test_client_tools import FUNCTION
from tests.system.test_erasure import eventually
from tests.system.test_keys import created, url

pytestmark = pytest.mark.servers


class People(NamedTuple):
    """Who asks, each with a key of its own, all of one tenant."""

    ann: httpx.Client
    bob: httpx.Client
    office: httpx.Client
    """Is bound to nobody."""


@pytest.fixture(scope="module")
def people(system_folder: Path) -> Iterator[People]:
    up = start(system_folder / "bound", "--host", "0.0.0.0")
    try:
        with client(up, "--resource", "ann") as ann, client(up, "--resource", "bob") as bob, client(up) as office:
            yield People(ann, bob, office)
        listed = [json.loads(line) for line in up.cli("keys", "list", "--json").stdout.splitlines()]
        assert sorted(line["resource"] for line in listed) == ["", "ann", "bob"]
    finally:
        assert up.stop() == 0


def client(up: UpProcess, *argv: str) -> httpx.Client:
    key = created(up, *argv)["key"]
    return holding(httpx.Client(base_url=url(up), headers={"authorization": f"Bearer {key}"}, timeout=60))


def run(client: httpx.Client, path: str = "/api/runs", **more: Any) -> httpx.Response:
    return client.post(path, json={"agent": "plain", "text": "hello", "wait_s": 60, **more})


def whole(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code in {200, 201, 202}, answer.text
    found: dict[str, Any] = answer.json()
    return found


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def chat(client: httpx.Client, thread: str | None = None, **more: Any) -> httpx.Response:
    headers = {"X-Ostinato-Thread": thread} if thread else {}
    body = {"model": "agent/plain", "messages": [{"role": "user", "content": "hello"}], **more}
    return client.post("/v1/chat/completions", json=body, headers=headers)


def test_a_thread_of_somebody_else_is_not_there(people: People) -> None:
    made = whole(run(people.ann))
    thread, one = made["thread"], f"/api/threads/{made['thread']}"
    told = whole(people.office.get(one))
    assert told["resource"] == "ann"
    assert whole(people.ann.get(one)) == told
    ran = f"{one}/runs/{made['run']}"
    for path in (one, f"{one}/messages", f"{one}/usage", f"{one}/memory", f"{one}/waits", f"{one}/tasks", ran,
                 f"{ran}/events"):  # fmt: skip
        assert people.ann.get(path).status_code == 200, path
        assert code(people.bob.get(path)) == (404, "thread_not_found"), path
    for method, path, body in (
        ("PATCH", one, {"title": "mine"}),
        ("PUT", f"{one}/memory", {"content": "x"}),
        ("POST", f"{one}/fork", {}),
        ("POST", f"{ran}/cancel", {}),
        ("POST", f"{one}/waits/e1/approve", {}),
        ("POST", f"{one}/waits/e1/result", {"content": "x"}),
        ("POST", f"{one}/tasks/t1/cancel", {}),
        ("POST", f"{one}/runs", {"agent": "plain", "text": "and now?"}),
        ("DELETE", one, {}),
    ):
        assert code(people.bob.request(method, path, json=body)) == (404, "thread_not_found"), path
    assert whole(people.ann.get(f"{one}/messages"))["total"] == 2
    assert whole(run(people.ann, f"{one}/runs"))["thread"] == thread


def test_lists_have_ones_own_alone_and_other_names_are_refused(people: People) -> None:
    own = whole(run(people.bob))["thread"]
    others = whole(run(people.office))["thread"]
    # lists are a moment behind
    eventually(lambda: {own, others} <= {one["thread"] for one in whole(people.office.get("/api/threads"))["data"]})
    for client in (people.ann, people.bob):
        threads = whole(client.get("/api/threads"))["data"]
        assert all(one["resource"] in {"ann", "bob"} for one in threads)
        assert (own in {one["thread"] for one in threads}) == (client is people.bob)
        assert others not in {one["thread"] for one in threads}
    # what belongs to nobody is not there either
    assert code(people.ann.get(f"/api/threads/{others}")) == (404, "thread_not_found")
    assert code(run(people.ann, f"/api/threads/{others}/runs")) == (404, "thread_not_found")
    assert code(people.ann.get("/api/threads?resource=bob")) == (403, "bound_key")
    assert code(run(people.ann, resource="bob")) == (403, "bound_key")
    assert code(people.ann.post("/api/threads", json={"resource": "bob"})) == (403, "bound_key")
    begun = whole(people.ann.post("/api/threads", json={"title": "Sums"}))["thread"]
    assert whole(people.office.get(f"/api/threads/{begun}"))["resource"] == "ann"
    assert code(people.ann.get("/api/resources/bob/memory")) == (403, "bound_key")
    assert people.ann.get("/api/resources/ann/memory").status_code == 200
    assert code(people.ann.post("/api/recall", json={"text": "x", "scope": "tenant"})) == (403, "bound_key")
    thread = {"text": "x", "scope": "thread", "thread": own}
    assert code(people.ann.post("/api/recall", json=thread)) == (404, "thread_not_found")
    assert whole(people.ann.get(f"/api/runs?thread={own}"))["data"] == []
    listed = {one["thread"] for one in whole(people.bob.get("/api/runs"))["data"]}
    assert own in listed
    assert others not in listed
    assert [one["thread"] for one in whole(people.bob.get(f"/api/runs?thread={own}"))["data"]] == [own]
    assert code(people.ann.get("/api/schedules")) == (403, "bound_key")


def test_what_waits_is_listed_for_whom_it_waits_for(people: People) -> None:
    asked = {"agent": "careful", "text": "What is 12 times 34?", "wait_s": 0}
    thread = whole(people.ann.post("/api/runs", json=asked))["thread"]
    eventually(lambda: thread in {one["thread"] for one in whole(people.office.get("/api/waits"))["data"]})
    (wait,) = whole(people.ann.get("/api/waits"))["data"]
    assert (wait["thread"], wait["tool"]) == (thread, "calculator")
    assert whole(people.bob.get("/api/waits"))["data"] == []
    one = f"/api/threads/{thread}/waits/{wait['effect']}"
    assert code(people.bob.post(f"{one}/approve", json={})) == (404, "thread_not_found")
    assert people.ann.post(f"{one}/decline", json={}).status_code == 200


def test_what_was_agreed_to_for_good_is_ones_own_to_see_and_to_take_back(people: People) -> None:
    one = f"/api/threads/{whole(run(people.ann))['thread']}"
    assert people.ann.post(f"{one}/grants", json={"tool": "calculator"}).status_code == 200
    eventually(lambda: "calculator" in people.ann.get(f"{one}/standing").json()["grants"])
    for method, path, body in (
        ("GET", "standing", {}),
        ("PUT", "mode", {"mode": "x"}),
        ("POST", "grants", {"tool": "calculator"}),
        ("POST", "grants/withdraw", {"tool": "calculator"}),
    ):
        assert code(people.bob.request(method, f"{one}/{path}", json=body)) == (404, "thread_not_found"), path
    assert people.ann.post(f"{one}/grants/withdraw", json={"tool": "calculator"}).status_code == 200
    eventually(lambda: not people.ann.get(f"{one}/standing").json()["grants"])
    assert code(people.ann.get(f"{one}/goal")) == (403, "bound_key")
    assert code(people.office.get(f"{one}/goal")) == (404, "goal_not_found")


def test_chats_and_responses_go_on_with_ones_own_alone(people: People) -> None:
    first = chat(people.ann)
    assert first.status_code == 200, first.text
    thread = first.headers["X-Ostinato-Thread"]
    assert chat(people.ann, thread).status_code == 200
    assert code(chat(people.bob, thread)) == (404, "thread_not_found")
    assert code(chat(people.bob, "t-nobody")) == (404, "thread_not_found")
    assert whole(people.office.get(f"/api/threads/{thread}"))["resource"] == "ann"
    model = whole(people.ann.get("/v1/models"))["data"][0]["id"]
    for name in ("agent/plain", model):
        asked = {"model": name, "input": "hello", "max_output_tokens": 16}
        identity = whole(people.ann.post("/v1/responses", json=asked))["id"]
        assert whole(people.ann.get(f"/v1/responses/{identity}"))["id"] == identity
        assert whole(people.office.get(f"/v1/responses/{identity}"))["id"] == identity
        for answer in (
            people.bob.get(f"/v1/responses/{identity}"),
            people.bob.get(f"/v1/responses/{identity}?stream=true"),
            people.bob.get(f"/v1/responses/{identity}/input_items"),
            people.bob.post(f"/v1/responses/{identity}/cancel"),
            people.bob.delete(f"/v1/responses/{identity}"),
            people.bob.post("/v1/responses", json={**asked, "previous_response_id": identity}),
        ):
            assert code(answer) == (404, "response_not_found"), answer.request.url
        assert whole(people.ann.post("/v1/responses", json={**asked, "previous_response_id": identity}))["id"]


def test_results_of_calls_are_brought_to_ones_own_run_alone(people: People) -> None:
    said = {"role": "user", "content": "What is 12 times 34?"}
    asked = {"model": "agent/receptive", "messages": [said], "tools": [FUNCTION]}
    message = whole(people.ann.post("/v1/chat/completions", json=asked))["choices"][0]["message"]
    (call,) = message["tool_calls"]
    name, told = call["id"], {key: call["function"][key] for key in ("name", "arguments")}
    given = [{"type": "function_call_output", "call_id": name, "output": "77"}]
    responses = {"model": "agent/receptive", "input": [{"type": "function_call", "call_id": name, **told}, *given]}
    use = {"type": "tool_use", "id": name, "name": told["name"], "input": json.loads(told["arguments"])}
    result = {"type": "tool_result", "tool_use_id": name, "content": "77"}
    said_there = [said, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    for path, body in (
        (
            "/v1/chat/completions",
            {"messages": [said, message, {"role": "tool", "tool_call_id": name, "content": "77"}]},
        ),
        ("/v1/messages", {"messages": said_there, "max_tokens": 64}),
        ("/v1/responses", responses),
    ):
        refused = people.bob.post(path, json={"model": "agent/receptive", **body})
        assert refused.status_code == 404, refused.text
        assert "there is none" in refused.text, path
    answered = whole(people.ann.post("/v1/responses", json=responses))
    assert "77" in json.dumps(answered["output"])
    one = f"/v1/responses/{answered['id']}"
    assert whole(people.ann.get(one))["id"] == answered["id"]
    assert code(people.bob.get(one)) == (404, "response_not_found")
    on = {"model": "agent/receptive", "input": "hello", "previous_response_id": answered["id"]}
    assert whole(people.ann.post("/v1/responses", json=on))["status"] == "completed"


def test_chats_of_user_interfaces_are_ones_own_too(people: People) -> None:
    def said(client: httpx.Client, chat: str) -> httpx.Response:
        message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hello"}]}
        body = {"id": chat, "messages": [message], "trigger": "submit-message"}
        return client.post("/api/agents/plain/chat", json=body)

    first = said(people.ann, "ui-1")
    assert first.status_code == 200, first.text
    assert "error" not in first.text
    assert len(people.ann.get("/api/agents/plain/chat/ui-1/messages").json()) == 2
    assert code(said(people.bob, "ui-1")) == (404, "thread_not_found")
    for method, path in (("GET", "messages"), ("GET", "stream"), ("POST", "stop")):
        answer = people.bob.request(method, f"/api/agents/plain/chat/ui-1/{path}")
        assert code(answer) == (404, "thread_not_found"), path
    asked = {"threadId": "ui-1", "runId": "r1", "messages": [], "tools": [], "context": [], "state": {}}
    assert people.ann.post("/ag-ui/plain", json=asked).status_code == 200
    assert code(people.bob.post("/ag-ui/plain", json=asked)) == (404, "thread_not_found")
    more = {**asked, "messages": [{"id": "m2", "role": "user", "content": "hello"}]}
    assert code(people.bob.post("/ag-ui/plain", json=more)) == (404, "thread_not_found")
    assert code(people.bob.post("/ag-ui/plain/threads/ui-1/stop")) == (404, "thread_not_found")
