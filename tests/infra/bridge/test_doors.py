"""Every route of the bridge, as its own table has them, and who comes to each of them with what key."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any, cast

import httpx
import pytest

from bus.connection import Message
from bus.errors import Unavailable
from bus.files import Files
from bus.store import Store
from infra.api_keys import ApiKeys, digest_of
from infra.batches.desk import BatchDesk
from infra.bridge import app
from infra.bridge.access import Access
from infra.bridge.app import Bridge
from infra.bridge.batches.routes import batch_doors
from infra.bridge.callers import ALL_SCOPES
from infra.bridge.doors import Door, Wing, Workplace
from infra.settings import AccessSettings, BatchSettings, LimitSettings
from schemas import codec
from schemas.about import Health, ProcessHealth
from schemas.commands import Command
from schemas.generation import Forgotten
from schemas.keys import IssueKey, KeyScope, RevokeKey
from schemas.live import Frame, Outcome
from schemas.runs import CommandAccepted, Problem
from tests.infra.bridge.documented import Checked
from tests.infra.bridge.doors import one_by_one

OPEN = {"/health", "/openapi.json"}
"""What anybody may ask: a route that is open by mistake is not in this list."""
NOW = 1_000_000


class Counting:
    """Time that stands, ids and chance that count."""

    def __init__(self) -> None:
        self._next = count(1)

    def now(self) -> int:
        return NOW

    def new(self, prefix: str) -> str:
        return f"{prefix}{next(self._next)}"

    def bits(self, count: int) -> int:
        return next(self._next)


class Bus:
    """Answers whatever is asked, and remembers what was sent."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def request(self, subject: str, data: bytes, timeout_s: float, headers: Any = None) -> Message:
        self.asked.append(subject)
        return Message(subject, codec.encode(Forgotten(1)))


def issued(ring: ApiKeys, secret: str, tenant: str, *scopes: KeyScope, **more: Any) -> None:
    """Put a key on a ring."""
    data = IssueKey(digest_of(secret), secret[:12], scopes, **more)
    command = Command(f"m-{secret}", tenant, "key", f"k-{secret}", "issue", data)
    ring.note(tenant, f"k-{secret}", CommandAccepted(command))


def revoked(ring: ApiKeys, secret: str, tenant: str) -> None:
    command = Command(f"m2-{secret}", tenant, "key", f"k-{secret}", "revoke", RevokeKey())
    ring.note(tenant, f"k-{secret}", CommandAccepted(command))


class House:
    """A bridge that wants keys, on a ring of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, settings: AccessSettings | None = None, **limits: int) -> None:
        self.commands: list[Command] = []
        self.bus = Bus()
        self.ring = ApiKeys()
        for scope in ALL_SCOPES:
            issued(self.ring, f"ost_{scope}", "acme", scope)
        issued(self.ring, "ost_foreign", "other", *ALL_SCOPES)
        issued(self.ring, "ost_old", "acme", *ALL_SCOPES, expires=NOW)
        issued(self.ring, "ost_gone", "acme", *ALL_SCOPES)
        revoked(self.ring, "ost_gone", "acme")

        async def follow(connection: object, read_back: object, command: Command) -> AsyncIterator[Frame]:
            self.commands.append(command)
            yield Outcome(command.id, "refused", command.thread, Problem("unknown_thread", "no such thread", "thread"))

        monkeypatch.setattr(app, "follow_together", one_by_one(follow))
        counting = Counting()
        access = settings or AccessSettings(required="always")
        self.bridge = Bridge(
            connection=cast("Any", self.bus),
            read_back=cast("Any", None),
            ids=counting,
            clock=counting,
            chance=counting,
            models=("m",),
            agents=("demo",),
            tenant="default",
            state=self._state,
            ask=Access(access, access.required != "auto", "default", self.ring, counting).caller,
            limits=LimitSettings(**limits),
            origins=access.origins,
            more=batch_doors(self._batches(counting)),
        )
        self.application = self.bridge.application()

    def _batches(self, counting: Counting) -> BatchDesk:
        async def opened() -> Store:
            raise Unavailable("there is no database here")

        about = (counting, counting, BatchSettings())
        return BatchDesk(cast("Any", self.bus), opened, Files(opened, seals=True), *about)

    async def _state(self) -> Health:
        return Health("ok", {"worker-0": ProcessHealth(1, 0, ready=True)})

    def send(self, method: str, path: str, key: str = "", **more: Any) -> httpx.Response:
        headers = {**({"authorization": f"Bearer {key}"} if key else {}), **more.pop("headers", {})}

        async def sent() -> httpx.Response:
            transport = Checked(self.application, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
                return await client.request(method, path, headers=headers, **more)

        return asyncio.run(sent())


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return House(monkeypatch)


QUESTION = {"model": "agent/demo", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}


def routes(bridge: Bridge) -> Iterator[tuple[Door | Wing, str, str]]:
    """Every route of a bridge: the route, a method of it and a path that leads to it."""
    for route in bridge.application().routes:
        assert isinstance(route, Door | Wing), f"{route!r} is no door: anybody could go through it"
        path = re.sub(r"{[^}]*}", "x", route.path) + ("/x" if isinstance(route, Wing) else "")
        methods = route.methods or () if isinstance(route, Door) else ("GET", "POST", "DELETE")
        for method in methods:
            yield route, method, path


def test_only_what_is_meant_to_be_open_is_open(house: House) -> None:
    assert {path for route, _, path in routes(house.bridge) if not route.wants} == OPEN


@pytest.mark.parametrize("key", ["", "ost_made-up", "not-one-of-ours", "ost_old", "ost_gone", "a.b.c"])
def test_no_route_lets_anybody_in_without_a_key_that_is_good(house: House, key: str) -> None:
    for route, method, path in routes(house.bridge):
        answer = house.send(method, path, key, json=QUESTION)
        assert answer.headers["x-request-id"]
        if route.wants:
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert method == "HEAD" or "invalid_api_key" in json.dumps(answer.json()["error"]).lower()
            assert not key or key not in answer.text
    assert house.commands == []
    assert house.bus.asked == []


def test_every_route_wants_one_of_its_scopes(house: House) -> None:
    for route, method, path in routes(house.bridge):
        for scope in ALL_SCOPES if route.wants else ():
            answer = house.send(method, path, f"ost_{scope}", json=QUESTION)
            if scope in route.wants:
                assert answer.status_code != 401, (method, path, scope)
            else:
                assert answer.status_code == 403, (method, path, scope)


def test_what_changes_the_server_wants_the_scope_for_that(house: House) -> None:
    wants = {route.path: route.wants for route, _, _ in routes(house.bridge)}
    assert wants["/reset_prefix_cache"] == ("admin",)
    assert house.send("POST", "/reset_prefix_cache", "ost_inference").status_code == 403
    assert house.send("POST", "/reset_prefix_cache", "ost_admin").json() == {"blocks": 1}


def test_a_key_for_models_runs_no_agent_and_the_other_way_round(house: House) -> None:
    path, model = "/v1/chat/completions", {**QUESTION, "model": "m"}
    assert house.send("POST", path, "ost_inference", json=QUESTION).json()["error"]["code"] == "insufficient_scope"
    assert house.send("POST", path, "ost_agents", json=model).status_code == 403
    assert house.commands == []
    assert house.send("POST", path, "ost_agents", json=QUESTION).status_code == 404
    assert house.send("POST", path, "ost_inference", json=model).status_code == 404
    assert [command.kind for command in house.commands] == ["agent", "generation"]


def test_whatever_a_foreign_key_asks_for_it_asks_in_its_own_tenant(house: House) -> None:
    for _, method, path in routes(house.bridge):
        house.send(method, path, "ost_foreign", json=QUESTION, headers={"X-Ostinato-Thread": "t-acme"})
    assert house.commands
    assert {command.tenant for command in house.commands} == {"other"}


def test_another_tenant_s_thread_is_not_found(house: House) -> None:
    headers = {"X-Ostinato-Thread": "t-acme"}
    answer = house.send("POST", "/v1/chat/completions", "ost_foreign", json=QUESTION, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "thread_not_found")
    assert "X-Ostinato-Thread" not in answer.headers


def test_anthropic_s_header_does_as_well(house: House) -> None:
    assert house.send("GET", "/v1/models", headers={"x-api-key": "ost_inference"}).status_code == 200


def test_how_the_server_does_is_told_to_those_who_may_look(house: House) -> None:
    assert house.send("GET", "/health").json() == {"status": "ok"}
    assert house.send("GET", "/health", "ost_inference").json() == {"status": "ok"}
    assert "processes" in house.send("GET", "/health", "ost_metrics").json()


def test_a_revocation_counts_from_the_next_request_on(house: House) -> None:
    assert house.send("GET", "/v1/models", "ost_inference").status_code == 200
    revoked(house.ring, "ost_inference", "acme")
    assert house.send("GET", "/v1/models", "ost_inference").status_code == 401


def test_a_key_that_comes_too_often_is_told_when_to_come_again(house: House) -> None:
    issued(house.ring, "ost_slow", "acme", "inference", requests_per_minute=2)
    first, second, third = (house.send("GET", "/v1/models", "ost_slow") for _ in range(3))
    assert (first.status_code, second.status_code, third.status_code) == (200, 200, 429)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in (first, second, third)] == ["1", "0", "0"]
    assert 29_000 < int(third.headers["retry-after-ms"]) <= 30_000
    assert third.headers["retry-after"] == "30"
    assert third.json()["error"]["code"] == "rate_limit_exceeded"
    assert house.send("GET", "/v1/models", "ost_inference").status_code == 200


def test_a_request_that_finds_no_place_is_told_so_before_its_body_is_read(house: House) -> None:
    admission = house.application.rules.house.admission
    while admission.enter(0.0) is None:
        pass
    answer = house.send("POST", "/v1/chat/completions", "ost_agents", content=b"not even JSON")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "overloaded")
    assert int(answer.headers["retry-after-ms"]) >= 50
    assert answer.headers["x-request-id"]
    assert house.send("GET", "/v1/models", "ost_agents").status_code == 200
    admission.leave(0.0)
    assert house.send("POST", "/v1/chat/completions", "ost_agents", json=QUESTION).status_code == 404
    assert house.send("POST", "/v1/chat/completions", "ost_agents", json=QUESTION).status_code == 404


def test_what_is_answered_and_refused_is_counted_by_route_and_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch, requests_per_minute=1, body_mb=1)
    for key in ("ost_wrong", "ost_metrics", "ost_inference", "ost_inference"):
        house.send("GET", "/v1/models", key)
    house.send("POST", "/v1/responses/r-1/cancel", "ost_wrong")
    house.send("POST", "/v1/tokenize", "ost_admin")
    house.send("GET", "/nowhere/at/all")
    answers = house.bridge.answers
    assert +answers.answered == {
        ("/v1/models", 401): 1,
        ("/v1/models", 403): 1,
        ("/v1/models", 200): 1,
        ("/v1/models", 429): 1,
        ("/v1/responses/{response_id}/cancel", 401): 1,
        ("none", 404): 2,
    }
    assert +answers.refused == {
        (401, "invalid_api_key"): 2,
        (403, "insufficient_scope"): 1,
        (429, "rate_limit_exceeded"): 1,
    }
    # of errors the first is seen too: a rate is of what was told before
    told = {(route, count) for route, status, count in answers.statistics()["answered"] if status == 500}
    assert told == {("none", 0), *((route.path, 0) for route, _, _ in routes(house.bridge))}


def test_only_where_answers_are_made_places_are_counted(house: House) -> None:
    assert {route.path for route, _, _ in routes(house.bridge) if isinstance(route, Workplace)} >= {
        "/v1/chat/completions",
        "/v1/completions",
    }


@pytest.mark.parametrize(
    ("path", "content", "status", "says"),
    [
        ("/v1/chat/completions", b'{"a":"' + b"x" * (1 << 20) + b'"}', 413, "larger than 1048576"),
        ("/inference/v1/abort_requests", b'{"a":"' + b"x" * (2 << 20) + b'"}', 413, "larger than 2097152"),
        ("/v1/chat/completions", b"[" * 30 + b"]" * 30, 400, "nested"),
        ("/v1/chat/completions", b'{"model":' * 100_000, 400, "nested"),
        ("/v1/chat/completions", b"{", 400, "JSON"),
    ],
)
def test_a_body_out_of_bounds_is_refused(
    monkeypatch: pytest.MonkeyPatch, path: str, content: bytes, status: int, says: str
) -> None:
    house = House(monkeypatch, body_mb=2, prompt_kb=1 << 10, nesting=20)
    answer = house.send("POST", path, "ost_foreign", content=content)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]
    assert answer.headers["x-request-id"]


def test_headers_out_of_bounds_are_refused(house: House) -> None:
    answer = house.send("GET", "/v1/models", "ost_inference", headers={"x-long": "x" * (33 << 10)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (431, "too_large")


def test_no_page_elsewhere_may_ask_unless_it_is_named(monkeypatch: pytest.MonkeyPatch, house: House) -> None:
    asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
    refused = house.send("OPTIONS", "/v1/chat/completions", headers=asked)
    assert "access-control-allow-origin" not in refused.headers
    settings = AccessSettings(required="always", origins=("https://app.example",))
    named = House(monkeypatch, settings).send("OPTIONS", "/v1/chat/completions", headers=asked)
    assert named.headers["access-control-allow-origin"] == "https://app.example"
    other = House(monkeypatch, settings).send("GET", "/health", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"authorization": "Bearer sk-whatever"}, 200),
        ({"authorization": "Bearer ost_gone"}, 401),
        ({"host": "localhost:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "evil.example"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:8000"}, 200),
    ],
)
def test_where_no_key_is_needed_only_this_machine_asks(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], status: int
) -> None:
    answer = House(monkeypatch, AccessSettings()).send("GET", "/v1/models", headers=headers)
    assert answer.status_code == status


def test_an_error_tells_no_more_than_its_asker_may_know(monkeypatch: pytest.MonkeyPatch, house: House) -> None:
    async def broken(*_: object) -> AsyncIterator[Frame]:
        raise RuntimeError("/etc/secret.txt: ost_secret, and somebody else's prompt")
        yield

    monkeypatch.setattr(app, "follow_together", one_by_one(broken))
    answer = house.send("POST", "/v1/chat/completions", "ost_agents", json=QUESTION)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert answer.headers["x-request-id"]
    for leaked in ("Traceback", "secret", "prompt", ".py", "/etc"):
        assert leaked not in answer.text


@pytest.mark.parametrize(("method", "path"), [("GET", "/nowhere"), ("PUT", "/v1/models"), ("GET", "/v1/completions")])
def test_what_is_not_there_is_told_as_every_error_is(house: House, method: str, path: str) -> None:
    answer = house.send(method, path, "ost_inference", headers={"x-request-id": "mine"})
    assert answer.status_code in {404, 405}
    assert answer.headers["x-request-id"] == "mine"
    assert answer.json()["error"]["code"] == "not_found"
    assert ("POST" in answer.headers.get("allow", "")) == (path == "/v1/completions")
