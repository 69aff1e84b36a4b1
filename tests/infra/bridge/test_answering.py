"""A line of a batch as the request that it is: always under the same name, last in line, and asked again for room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from actors.batches.actor import LineAsked
from bus.errors import Refused, Unavailable
from infra.bridge.batches import answering
from infra.bridge.batches.answering import LAST, Answering
from infra.bridge.pooling.calls import PoolerCalls
from schemas.commands import AbortRun, Command, Generate
from schemas.live import Frame, Outcome
from schemas.messages import Usage
from schemas.runs import ModelFailed, Problem
from tests.infra.bridge.doors import USAGE, Counted, accepted, committed, plain, returned

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
DEADLINE = 1 << 60


class World:
    """Who answers, and what was sent for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *scripts: Any) -> None:
        self.commands: list[Command] = []
        self.sent: list[Command] = []
        left = list(scripts)

        async def follow(
            connection: object, read_back: object, command: Command, chance: object, ids: object, late_s: float
        ) -> AsyncIterator[Frame]:
            self.commands.append(command)
            script = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(script, Exception):
                raise script
            for frame in script(command):
                yield frame

        async def send(connection: object, command: Command) -> None:
            self.sent.append(command)

        monkeypatch.setattr(answering, "follow_pictured", follow)
        monkeypatch.setattr(answering, "send_command", send)
        monkeypatch.setattr(answering, "_RETRY_S", (0.0, 0.0))
        nothing: Any = None
        self.answering = Answering(nothing, nothing, Counted(), PoolerCalls(nothing, ()), 64)

    async def ask(self, endpoint: str = "/v1/chat/completions", **body: Any) -> tuple[int, Any, Usage]:
        whole = {**(CHAT if endpoint.startswith("/v1/chat") else {"model": "m"}), **body}
        asked = LineAsked("acme", "batch_1-7", endpoint, whole, DEADLINE)
        answer, usage = await self.answering.answer(asked)
        return answer.status, msgspec.json.decode(answer.body), usage


def full(command: Command) -> list[Frame]:
    problem = Problem(kind="overloaded", message="no room", retry_after_ms=1)
    return [Outcome(command.id, "refused", command.thread, problem)]


def broken(command: Command) -> list[Frame]:
    return [accepted(command), committed(command, 2, ModelFailed("e", Problem(kind="engine", message="broken")))]


async def test_it_is_answered_as_it_would_be_over_http_after_everybody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, plain)
    status, body, usage = await world.ask(priority=-5, timeout_s=3)
    assert (status, body["choices"][0]["message"]["content"]) == (200, "Hello")
    assert usage == USAGE
    (command,) = world.commands
    assert isinstance(command.data, Generate)
    assert (command.id, command.tenant, command.source) == ("batch_1-7-0", "acme", "batch")
    assert command.data.priority == LAST
    assert 0 < command.data.deadline < DEADLINE
    await world.ask()
    again = world.commands[-1].data
    assert isinstance(again, Generate)
    assert (world.commands[-1].id, again.deadline) == ("batch_1-7-0", DEADLINE)


async def test_who_finds_no_room_comes_again_under_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = TimeoutError("nothing came")
    world = World(monkeypatch, full, lost, Refused(10077, "maximum messages exceeded"), plain)
    status, _, _ = await world.ask()
    assert status == 200
    assert [command.id for command in world.commands] == [f"batch_1-7-{n}" for n in range(4)]


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (broken, 500, "engine_error"),
        (Refused(10054, "message size exceeds maximum allowed"), 413, "too_large"),
        (KeyError("a defect"), 500, "internal"),
    ],
)
async def test_what_comes_to_nothing_is_an_error_of_its_line(
    monkeypatch: pytest.MonkeyPatch, script: Any, status: int, code: str
) -> None:
    found, body, usage = await World(monkeypatch, script).ask()
    assert (found, body["error"]["code"], usage) == (status, code, Usage())


async def test_a_line_whose_engine_broke_is_asked_twice_more(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, broken, broken, plain)
    assert (await world.ask())[0] == 200
    world = World(monkeypatch, broken)
    assert (await world.ask())[0] == 500
    assert [command.id for command in world.commands] == [f"batch_1-7-{n}" for n in range(3)]


async def test_a_bus_that_is_away_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, Unavailable("no NATS"))
    with pytest.raises(Unavailable):
        await world.ask()


async def test_prompts_of_one_line_are_generations_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, lambda command: [accepted(command), returned(command, "x")])
    status, body, usage = await world.ask("/v1/completions", prompt=["a", "b", "c"])
    assert (status, [choice["text"] for choice in body["choices"]]) == (200, ["x"] * 3)
    assert usage.prompt_tokens == 3 * USAGE.prompt_tokens
    assert {command.id for command in world.commands} == {"batch_1-7-0", "batch_1-7-0-1", "batch_1-7-0-2"}


async def test_a_response_is_found_again_by_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, plain)
    status, body, usage = await world.ask("/v1/responses", input="hi")
    assert (status, body["id"], body["status"]) == (200, "resp_batch_1-7-0", "completed")
    assert usage.cached_tokens == USAGE.cached_tokens
    status, body, _ = await world.ask("/v1/responses", input="hi", previous_response_id="resp_x")
    assert (status, body["error"]["param"]) == (400, "previous_response_id")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"stream": True}, "stream"),
        ({"model": "agent/demo"}, "model"),
        ({"temperature": 9}, "temperature"),
        ({"messages": []}, "messages"),
        ({"metadata": {"a": {"b": 1}}}, "metadata[...]"),
    ],
)
async def test_what_cannot_be_answered_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, body: dict[str, Any], param: str
) -> None:
    world = World(monkeypatch, plain)
    status, told, _ = await world.ask(**body)
    assert (status, told["error"]["param"]) == (400, param)
    assert not world.commands


async def test_what_goes_on_for_a_line_is_ended_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, plain)
    await world.answering.abort("acme", "batch_1-7")
    assert not world.sent
    world.answering._going["acme", "batch_1-7"] = {"batch_1-7-0", "batch_1-7-0-1"}
    await world.answering.abort("other", "batch_1-7")
    assert not world.sent
    await world.answering.abort("acme", "batch_1-7")
    assert [command.thread for command in world.sent] == ["batch_1-7-0", "batch_1-7-0-1"]
    assert all(isinstance(command.data, AbortRun) for command in world.sent)
