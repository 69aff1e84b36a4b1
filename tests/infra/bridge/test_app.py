"""The bridge's routes over scripted frames: what of a run's fate stands in status and headers."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any, cast

import anthropic
import httpx
import httpx2
import openai
import pytest

from bus.errors import BusError, Refused
from infra.bridge import app
from infra.bridge.app import Bridge
from infra.bridge.openai import SESSION_HEADER, THREAD_HEADER
from schemas import codec
from schemas.about import Health
from schemas.commands import Command, Generate
from schemas.live import Committed, Delta, Frame, Outcome
from schemas.messages import Usage
from schemas.runs import ErrorKind, ModelFailed, Problem, RunFailed, RunFinished
from schemas.tracing import request_span
from tests.infra.bridge.documented import Checked, Checked2
from tests.infra.bridge.doors import one_by_one

Script = Callable[[Command], list[Frame | Exception]]
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Numbered:
    """Time, ids and chance that count."""

    def __init__(self) -> None:
        self._next = count(1)

    def now(self) -> int:
        return next(self._next)

    def new(self, prefix: str) -> str:
        return f"{prefix}{next(self._next)}"

    def bits(self, count: int) -> int:
        return next(self._next)


class Door:
    """The bridge's application, and the commands it would have sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
        self.commands: list[Command] = []

        async def follow(connection: object, read_back: object, command: Command) -> AsyncIterator[Frame]:
            self.commands.append(command)
            for frame in script(command):
                if isinstance(frame, Exception):
                    raise frame
                yield frame

        monkeypatch.setattr(app, "follow_together", one_by_one(follow))
        chance = Numbered()
        self._bridge = Bridge(
            connection=cast("Any", None),
            read_back=cast("Any", None),
            ids=chance,
            clock=chance,
            chance=chance,
            models=("m",),
            agents=("demo",),
            tenant="acme",
            state=self._state,
        )

    async def _state(self) -> Health:
        return Health("degraded")

    def send(self, method: str, path: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        async def sent() -> httpx.Response:
            transport = Checked(self._bridge.application())
            async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
                return await client.request(method, path, headers=headers, json=fields or None)

        return asyncio.run(sent())

    def with_openai(self, model: str) -> None:
        """Ask with OpenAI's client as it comes."""

        async def asked() -> None:
            transport = Checked2(self._bridge.application())
            async with httpx2.AsyncClient(transport=transport) as http:
                client = openai.AsyncOpenAI(base_url="http://door/v1", api_key="k", http_client=http)
                await client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])

        asyncio.run(asked())

    def with_anthropic(self, model: str) -> None:
        """Ask with Anthropic's client as it comes."""

        async def asked() -> None:
            transport = Checked2(self._bridge.application())
            async with httpx2.AsyncClient(transport=transport) as http:
                client = anthropic.AsyncAnthropic(base_url="http://door", api_key="k", http_client=http)
                await client.messages.create(model=model, max_tokens=8, messages=[{"role": "user", "content": "hi"}])

        asyncio.run(asked())

    def chat(self, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        question = {"model": "agent/demo", "messages": [{"role": "user", "content": "hi"}], **fields}
        return self.send("POST", "/v1/chat/completions", headers, **question)


def ended(command: Command, event: RunFinished | RunFailed) -> Committed:
    payload = codec.payload(event)
    return Committed("2-0", codec.tag(event), command.id, command.thread, "", "acme", "", 2, payload)


def answered(command: Command) -> list[Frame | Exception]:
    return [Outcome(command.id, "accepted", command.thread), ended(command, RunFinished("hello", 1, Usage()))]


def refused(problem: Problem) -> Script:
    return lambda command: [Outcome(command.id, "refused", command.thread, problem)]


def test_a_thread_that_exists_is_named_in_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(monkeypatch, answered)
    assert door.chat({THREAD_HEADER: "t-mine"}).headers[THREAD_HEADER] == "t-mine"
    fresh = door.chat(stream=True)
    assert fresh.headers[THREAD_HEADER] == door.commands[-1].thread


def test_a_session_is_named_by_the_request_or_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(monkeypatch, lambda command: [])
    for headers, fields in (({SESSION_HEADER: "mine"}, {}), ({SESSION_HEADER: "other"}, {"session_id": "mine"})):
        for path, asked in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
            ("/v1/completions", {"prompt": "hi"}),
        ):
            door.send("POST", path, headers, model="m", **asked, **fields)
            data = door.commands[-1].data
            assert isinstance(data, Generate)
            assert data.session_id == "mine"


def test_a_session_that_is_too_long_is_refused_and_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(monkeypatch, lambda command: [])
    answer = door.chat({SESSION_HEADER: "x" * 1001})
    assert answer.status_code == 400
    assert SESSION_HEADER in answer.json()["error"]["message"]
    assert not door.commands


def test_the_thread_of_a_run_that_failed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(monkeypatch, lambda command: [ended(command, RunFailed(Problem("tool", "no"), 1))])
    answer = door.chat({THREAD_HEADER: "t-mine"})
    assert (answer.status_code, answer.headers[THREAD_HEADER]) == (500, "t-mine")


@pytest.mark.parametrize("given", [{}, {THREAD_HEADER: "t-nobody"}, {THREAD_HEADER: "Not An Id"}])
def test_a_thread_that_was_refused_is_not_echoed(monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    answer = Door(monkeypatch, refused(Problem("unknown_thread", "no such thread", "thread"))).chat(given)
    assert answer.status_code in {400, 404}
    assert answer.json()["error"]["param"] == THREAD_HEADER
    assert THREAD_HEADER not in answer.headers


def test_the_time_a_scheduler_asks_for_reaches_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Door(monkeypatch, refused(Problem("overloaded", "the queue is full", None, 2500))).chat()
    assert answer.status_code == 503
    assert (answer.headers["retry-after-ms"], answer.headers["Retry-After"]) == ("2500", "3")


TWICE_IN_VAIN = ("max_steps", "tool", "timeout", "budget", "key", "aborted", "definition")


def in_vain(command: Command, kind: ErrorKind) -> list[Frame | Exception]:
    """What comes of a run, or of a generation, that fails."""
    failed: Any = RunFailed(Problem(kind, "no"), 1)
    if isinstance(command.data, Generate):
        failed = ModelFailed(f"{command.id}-1-m", Problem(kind, "no"))
    return [Outcome(command.id, "accepted", command.thread), ended(command, failed)]


@pytest.mark.parametrize("model", ["agent/demo", "m"])
@pytest.mark.parametrize("kind", TWICE_IN_VAIN)
def test_official_clients_do_not_repeat_what_was_done_or_fails_again(
    monkeypatch: pytest.MonkeyPatch, model: str, kind: ErrorKind
) -> None:
    door = Door(monkeypatch, lambda command: in_vain(command, kind))
    with pytest.raises(openai.APIStatusError):
        door.with_openai(model)
    assert len(door.commands) == 1
    with pytest.raises(anthropic.APIStatusError):
        door.with_anthropic(model)
    assert len(door.commands) == 2


def test_no_client_runs_an_agent_again_that_had_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(command: Command) -> list[Frame | Exception]:
        return [Outcome(command.id, "accepted", command.thread), BusError("gone")]

    for script in (begun, lambda command: in_vain(command, "engine"), lambda command: in_vain(command, "overloaded")):
        door = Door(monkeypatch, script)
        with pytest.raises(openai.APIStatusError):
            door.with_openai("agent/demo")
        assert len(door.commands) == 1


def test_official_clients_repeat_what_was_only_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    full = refused(Problem("overloaded", "full", None, 1))
    door = Door(monkeypatch, lambda command: answered(command) if len(door.commands) > 1 else full(command))
    door.with_openai("agent/demo")
    assert len(door.commands) == 2


@pytest.mark.parametrize("error", [Refused(10077, "maximum messages exceeded"), BusError("gone"), TimeoutError()])
def test_a_bus_that_fails_is_worth_another_try(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    answer = Door(monkeypatch, lambda _: [error]).chat()
    assert answer.status_code == 503
    assert (answer.headers["retry-after-ms"], answer.headers["Retry-After"]) == ("1000", "1")
    assert THREAD_HEADER not in answer.headers


def test_a_stack_that_does_not_serve_yet_says_when_to_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Door(monkeypatch, answered).send("GET", "/health")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize(
    "junk",
    [
        "junk",
        "",
        TRACE.upper(),
        TRACE + "-more",
        "ff" + TRACE[2:],
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
    ],
)
def test_only_a_trace_that_tracers_read_is_kept(monkeypatch: pytest.MonkeyPatch, junk: str) -> None:
    door = Door(monkeypatch, answered)
    door.chat({"traceparent": TRACE})
    door.chat({"traceparent": junk})
    kept, fresh = door.commands
    assert kept.traceparent == TRACE
    # one that begins here names the span of its own request
    own = request_span(fresh.tenant, fresh.id)
    assert re.fullmatch(rf"00-0{{28,31}}[0-9a-f]{{1,4}}-{own}-01", fresh.traceparent)


@pytest.mark.parametrize("model", ["m", "agent/demo"])
def test_a_time_limit_becomes_a_deadline(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    door = Door(monkeypatch, answered)
    door.chat(model=model, timeout_s=2.5)
    door.chat(model=model)
    limited, free = (cast("Any", command.data).deadline for command in door.commands)
    assert limited // 1_000_000 == 2
    assert free == 0
    assert door.chat(model=model, timeout_s=0).json()["error"]["param"] == "timeout_s"


class Standing:
    """A bridge whose commands never come to an end by themselves, and what it sends to end them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[Command] = []
        self.heard = asyncio.Event()
        self._aborted: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

        async def follow(connection: object, read_back: object, command: Command) -> AsyncIterator[Frame]:
            yield Outcome(command.id, "accepted", command.thread)
            yield Delta(command.id, command.thread, f"{command.id}-1-m", 2, 0, "Once")
            self.heard.set()
            await self._aborted[command.thread].wait()
            failed = ModelFailed(f"{command.id}-1-m", Problem("aborted", "it was aborted"))
            payload = codec.payload(failed)
            yield Committed("3-0", "model.failed", command.id, command.thread, "", "acme", "", 3, payload)

        async def send_command(connection: object, command: Command) -> None:
            self.sent.append(command)
            self._aborted[command.thread].set()

        monkeypatch.setattr(app, "follow_together", one_by_one(follow))
        monkeypatch.setattr(app, "send_command", send_command)
        self.bridge = Door(monkeypatch, lambda _: [])._bridge
        monkeypatch.setattr(app, "follow_together", one_by_one(follow))

    async def leave(self, path: str, **fields: Any) -> None:
        """Ask, and go away once the first text was heard."""
        async with self.client() as client:
            asking = asyncio.create_task(client.post(path, json={"model": "m", **fields}))
            await self.heard.wait()
            asking.cancel()
            await asyncio.wait({asking})

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=Leaving(self.bridge.application()), base_url="http://door")


class Leaving(httpx.AsyncBaseTransport):
    """Calls an application, and tells it when the client goes away, as a server does."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body, gone, sent = await request.aread(), asyncio.Event(), list[Any]()
        pieces = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if pieces:
                return pieces.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(name.lower(), value) for name, value in request.headers.raw]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": request.method,
            "path": request.url.path,
            "headers": headers,
            "query_string": b"",
        }
        serving = asyncio.create_task(self._application(scope, receive, send))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            gone.set()
            await serving
            raise
        content = b"".join(message.get("body", b"") for message in sent)
        return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=content)


MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields", "generations"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}, 1),
        ("/v1/completions", {"prompt": ["Once", "Twice"]}, 2),
    ],
)
async def test_a_client_that_goes_away_ends_its_generations(
    monkeypatch: pytest.MonkeyPatch, path: str, fields: dict[str, Any], generations: int, stream: bool
) -> None:
    standing = Standing(monkeypatch)
    await standing.leave(path, stream=stream, **fields)
    await until(lambda: len(standing.sent) == generations)
    assert {(command.kind, command.verb) for command in standing.sent} == {("generation", "abort")}
    assert len({command.thread for command in standing.sent}) == generations
    assert len(standing.bridge.under_way) == 0


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_s_run_goes_on_when_its_client_goes_away(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    standing = Standing(monkeypatch)
    await standing.leave("/v1/chat/completions", model="agent/demo", messages=MESSAGES, stream=stream)
    await until(lambda: len(standing.bridge.under_way) == 0)
    assert standing.sent == []


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["mine", "chatcmpl-{}", "{}"])
async def test_a_generation_is_ended_by_any_of_its_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    standing = Standing(monkeypatch)
    async with standing.client() as client:
        question = {"model": "m", "messages": MESSAGES}
        asking = asyncio.create_task(
            client.post("/v1/chat/completions", json=question, headers={"x-request-id": "mine"})
        )
        await standing.heard.wait()
        ((_, generation),) = standing.bridge.under_way._named.keys() - {("acme", "mine")}
        ids = {"request_ids": [name.format(generation), "g-nobody", "Not An Id"]}
        assert (await client.post("/inference/v1/abort_requests", json=ids)).status_code == 200
        answer = await asking
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "aborted")
    assert answer.headers["x-request-id"] == "mine"
    assert sorted(command.thread for command in standing.sent) == sorted([generation, "g-nobody"])


@pytest.mark.anyio
async def test_a_list_of_ids_is_needed_to_end_some(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Standing(monkeypatch).client() as client:
        answer = await client.post("/inference/v1/abort_requests", json={})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "request_ids")


@pytest.mark.anyio
async def test_a_server_that_stops_takes_nothing_new_and_ends_what_does_not_finish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    standing = Standing(monkeypatch)
    async with standing.client() as client:
        question = {"model": "m", "messages": MESSAGES}
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=question))
        await standing.heard.wait()
        draining = asyncio.create_task(standing.bridge.under_way.drain(0.05))
        await until(lambda: standing.bridge.under_way.draining)
        refused = await client.post("/v1/chat/completions", json=question)
        await draining
        ended = await asking
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert refused.headers["Retry-After"] == "1"
    assert (ended.status_code, ended.json()["error"]["code"]) == (409, "aborted")


@pytest.mark.anyio
async def test_a_server_with_nothing_to_do_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    await Standing(monkeypatch).bridge.under_way.drain(3600)


async def until(true: Callable[[], bool]) -> None:
    """Let others go on until something is true."""
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come true")
