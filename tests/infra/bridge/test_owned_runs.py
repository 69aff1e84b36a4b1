"""What somebody with a key of one person hears of runs that wait for their clients: of that person's own alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from starlette.requests import Request

from infra.bridge.callers import ALL_SCOPES, CALLER, Caller
from infra.bridge.desk import Desk
from infra.bridge.responses.asking import read_responses
from infra.bridge.responses.events import response_id
from infra.bridge.responses.noting import noted
from infra.bridge.rest.repeats import KEY, Repeats
from schemas.commands import Command, PostResult, RunAgent
from schemas.memory import ThreadCreated, ThreadDeleted
from schemas.messages import Message
from schemas.runs import CommandAccepted, Event
from tests.infra.bridge.doors import Scripted, committed
from tests.infra.bridge.test_handing import COMMAND, EVENTS
from tests.infra.bridge.test_responses import run

OWNED = replace(COMMAND, data=RunAgent(agent="demo", text="hi", resource="ann"))
CALLS = tuple(f"call_r1-1-t{at}_t1" for at in (1, 2))
FUNCTION = {"name": "fetch", "arguments": "{}"}


async def who(headers: Mapping[str, str]) -> Caller:
    """The key is the person's name; nobody's has none."""
    return Caller("acme", ALL_SCOPES, "k", resource=headers.get("x-person", ""))


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """Ann's run handed two calls to her, and has their results."""
    made = Scripted(monkeypatch, run, ask=who)
    of_thread(made, ThreadCreated(title="", resource="ann"), CommandAccepted(OWNED))
    made.recorded += [("run", committed(OWNED, at, event)) for at, event in enumerate(EVENTS, 1)]
    return made


def of_thread(door: Scripted, *events: Event) -> None:
    """Have events of the thread be recorded, behind those that are."""
    at = 1 + sum(kind == "thread" for kind, _ in door.recorded)
    found = [committed(OWNED, version, event) for version, event in enumerate(events, at)]
    door.recorded += [("thread", replace(one, subject="t1")) for one in found]


def send(door: Scripted, person: str, method: str, path: str, body: Any = None) -> httpx.Response:
    return door.send(method, path, {"x-person": person}, b"" if body is None else json.dumps(body).encode())


CHAT = {
    "messages": [
        {"role": "assistant", "tool_calls": [{"id": one, "type": "function", "function": FUNCTION} for one in CALLS]},
        *({"role": "tool", "tool_call_id": one, "content": "from outside"} for one in CALLS),
    ]
}
MESSAGES = {
    "max_tokens": 64,
    "messages": [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": one, "name": "fetch", "input": {}} for one in CALLS],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": one, "content": "from outside"} for one in CALLS],
        },
    ],
}
RESPONSES = {
    "input": [
        *({"type": "function_call", "call_id": one, **FUNCTION} for one in CALLS),
        *({"type": "function_call_output", "call_id": one, "output": "from outside"} for one in CALLS),
    ]
}


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/messages", MESSAGES), ("/v1/responses", RESPONSES)]
)
def test_results_of_calls_go_to_ones_own_run_alone(door: Scripted, path: str, body: dict[str, Any]) -> None:
    asked = {"model": "agent/demo", **body}
    for stream in (False, True):
        told = send(door, "bob", "POST", path, {**asked, "stream": stream})
        assert told.status_code == 404, told.text
        assert "there is none" in told.text
        assert "There." not in told.text
    assert (door.commands, door.sent) == ([], [])
    for person in ("ann", ""):
        own = send(door, person, "POST", path, asked)
        assert own.status_code == 200, own.text
        assert "There." in own.text


def test_a_response_that_was_made_of_results_is_its_owner_s_to_go_on_from(door: Scripted) -> None:
    asked = read_responses(json.dumps({"model": "agent/demo", **RESPONSES}).encode())
    messages = tuple(Message("tool", "x", tool_call_id=one) for one in CALLS)
    bare = Command("r5", "acme", "agent", "t1", "run", RunAgent(agent="demo", messages=messages, resource="ann"))
    data = noted(bare, asked, 1, 0, "ann").data
    assert isinstance(data, RunAgent)
    given = replace(bare, verb="result", data=PostResult("r1-1-t1", "x", note=data.note))
    of_thread(door, CommandAccepted(given))
    path = f"/v1/responses/{response_id(given)}"
    for person, status in (("ann", 200), ("", 200), ("bob", 404)):
        for one in (path, f"{path}/input_items"):
            told = send(door, person, "GET", one)
            assert told.status_code == status, told.text
    on = {"model": "agent/demo", "input": "And now?", "previous_response_id": response_id(given)}
    assert send(door, "bob", "POST", "/v1/responses", on).status_code == 404
    assert send(door, "ann", "POST", "/v1/responses", on).status_code == 200
    assert door.commands[-1].thread == "t1"


def test_an_idempotency_key_is_its_person_s_own(door: Scripted) -> None:
    def name(person: str) -> str:
        caller = Caller("acme", ALL_SCOPES, "k", resource=person)
        request = Request({"type": "http", "headers": [(KEY.encode(), b"k1")], CALLER: caller})
        desk: Desk = None  # type: ignore[assignment]  # a name is made of nothing but the request
        return Repeats(desk).named(request, COMMAND, None).id

    assert name("ann") == name("ann")
    assert len({name(person) for person in ("ann", "bob", "")}) == 3


def test_what_stands_in_a_thread_that_was_deleted_is_not_there(door: Scripted) -> None:
    of_thread(door, ThreadDeleted())
    for path in ("standing", "goal"):
        told = send(door, "", "GET", f"/api/threads/t1/{path}")
        assert (told.status_code, told.json()["error"]["code"]) == (404, "thread_not_found"), told.text
