"""The bridge's routes over scripted frames: what of a run's fate stands in status and headers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any, cast

import httpx
import pytest

from bus.errors import BusError, Refused
from infra.bridge import app
from infra.bridge.app import Bridge
from infra.bridge.openai import THREAD_HEADER
from schemas import codec
from schemas.commands import Command
from schemas.live import Committed, Frame, Outcome
from schemas.messages import Usage
from schemas.runs import Problem, RunFailed, RunFinished

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

        monkeypatch.setattr(app, "follow", follow)
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

    async def _state(self) -> dict[str, Any]:
        return {"status": "degraded"}

    def send(self, method: str, path: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        async def sent() -> httpx.Response:
            transport = httpx.ASGITransport(self._bridge.application())
            async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
                return await client.request(method, path, headers=headers, json=fields or None)

        return asyncio.run(sent())

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
    kept, fresh = (command.traceparent for command in door.commands)
    assert kept == TRACE
    assert re.fullmatch(r"00-0{28,31}[0-9a-f]{1,4}-0{12,15}[0-9a-f]{1,4}-01", fresh)
