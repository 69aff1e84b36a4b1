"""Places for answers behind the doors of MCP and A2A, where one route is for all that a client may want."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from schemas.rest import AgentOffered
from tests.infra.bridge.test_doors import House

MCP = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}


class Offering(House):
    """A bridge that has an agent to offer, and as many places as are left to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, full: bool = False, **limits: int) -> None:
        super().__init__(monkeypatch, **limits)
        self.bridge = replace(self.bridge, offered=(AgentOffered("demo"),))
        self.application = self.bridge.application()
        self.admission = self.application.rules.house.admission
        while full and self.admission.enter(0.0) is None:
            pass

    def mcp(self, method: str, **params: Any) -> httpx.Response:
        told = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        return self.send("POST", "/mcp", "ost_agents", json=told, headers=MCP)

    def rpc(self, method: str, **params: Any) -> httpx.Response:
        told = {"jsonrpc": "2.0", "id": "seven", "method": method, "params": params}
        return self.send("POST", "/a2a/demo/", "ost_agents", json=told, headers={"A2A-Version": "1.0"})


SAID = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}}


def test_a_tool_call_that_finds_no_place_is_refused_as_json_rpc_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    house = Offering(monkeypatch, full=True)
    refused = house.mcp("tools/call", name="ask_demo", arguments={"text": "hi"})
    error = refused.json()["error"]
    assert (refused.status_code, refused.json()["id"], error["code"]) == (429, 7, -32000)
    assert (error["data"]["code"], error["data"]["retryAfterMs"]) == ("overloaded", 1000)
    assert refused.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/list", {}),
        # whoever makes room is let in when there is none
        ("tools/call", {"name": "cancel_run", "arguments": {"thread": "t", "run": 1}}),
        ("notifications/cancelled", {"requestId": 1}),
    ],
)
def test_what_makes_no_answer_needs_no_place(
    monkeypatch: pytest.MonkeyPatch, method: str, params: dict[str, Any]
) -> None:
    house = Offering(monkeypatch, full=True)
    taken, turned_away = house.admission.taken, house.admission.turned_away
    assert house.mcp(method, **params).status_code == 200
    assert (house.admission.taken, house.admission.turned_away) == (taken, turned_away)


def test_a_task_is_asked_for_without_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    house = Offering(monkeypatch, full=True)
    assert house.rpc("GetTask", id="x").json()["error"]["message"] == "Task not found"
    assert house.send("GET", "/a2a/demo/tasks/x", "ost_agents").json()["error"]["status"] != "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("method", ["SendMessage", "SendStreamingMessage"])
def test_a_message_that_finds_no_place_is_refused_as_its_binding_has_it(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    refused = Offering(monkeypatch, full=True).rpc(method, **SAID)
    error = refused.json()["error"]
    assert (refused.status_code, refused.json()["id"], error["data"]["code"]) == (429, "seven", "overloaded")


@pytest.mark.parametrize("path", ["/message:send", "/message:stream", "/tenant/message:send"])
def test_a_message_over_rest_that_finds_no_place_is_refused_in_its_form(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    house = Offering(monkeypatch, full=True)
    refused = house.send("POST", "/a2a/demo" + path, "ost_agents", json=SAID)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["status"]) == (429, 429, "RESOURCE_EXHAUSTED")
    assert error["details"][0]["reason"] == "OVERLOADED"
    assert int(refused.headers["retry-after-ms"]) == 1000


def test_a_place_is_given_back_however_a_call_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    house = Offering(monkeypatch)
    assert house.mcp("tools/call", name="ask_nobody", arguments={"text": "hi"}).status_code == 200
    assert house.rpc("SendMessage", message={}).status_code == 200
    assert house.admission.taken == 0


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [(b'{"a":"' + b"x" * (1 << 20) + b'"}', 413, "larger"), (b"[" * 30 + b"]" * 30, 400, "nested")],
)
def test_a_body_out_of_bounds_is_refused_in_the_form_of_its_protocol(
    monkeypatch: pytest.MonkeyPatch, content: bytes, status: int, says: str
) -> None:
    house = Offering(monkeypatch, body_mb=1, nesting=20)
    for path, number in (("/mcp", -32600), ("/a2a/demo/", -32600), ("/a2a/demo/message:send", status)):
        refused = house.send("POST", path, "ost_agents", content=content)
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, number)
        assert says in refused.json()["error"]["message"]


def test_what_is_too_long_for_a_model_comes_to_none(monkeypatch: pytest.MonkeyPatch) -> None:
    house = Offering(monkeypatch, prompt_kb=1)
    long = house.mcp("tools/call", name="ask_demo", arguments={"text": "x" * 2000})
    assert (long.status_code, long.json()["error"]["data"]["code"]) == (413, "too_large")
    said = {"message": {**SAID["message"], "parts": [{"text": "x" * 2000}]}}
    assert house.rpc("SendMessage", **said).status_code == 413


def test_nothing_is_begun_when_the_server_is_about_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    house = Offering(monkeypatch)
    house.bridge.under_way.draining = True
    refused = house.mcp("tools/call", name="ask_demo", arguments={"text": "hi"})
    assert (refused.status_code, refused.json()["error"]["data"]["code"]) == (503, "draining")
    assert house.rpc("SendMessage", **SAID).status_code == 503
