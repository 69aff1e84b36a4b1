"""Runs that end a request with calls for their client, and go on in the next: what is told each time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from infra.bridge.chat import ChatEncoder
from infra.bridge.handed import Handed, Resumed, Told, call_id, results_in
from infra.bridge.handing import Turn
from infra.settings import LimitSettings
from schemas.commands import Command, RunAgent
from schemas.generation import Sampling
from schemas.live import Committed
from schemas.messages import Message, ToolCall, Usage
from schemas.profiles import Profile
from schemas.rest import AgentOffered
from schemas.runs import Event, ModelCalled, ModelReturned, RunFinished, RunStarted, ToolCalled, ToolReturned
from schemas.waits import ToolHandedOver
from tests.infra.bridge.doors import Scripted, committed
from tests.infra.bridge.test_responses import run

COMMAND = Command("r1", "acme", "agent", "t1", "run", RunAgent(agent="demo", text="hi"))
OWN, FIRST, SECOND = ToolCall("c0", "own", "{}"), ToolCall("c1", "fetch", '{"a": 1}'), ToolCall("c2", "fetch", "{}")
USED = Usage(10, 5)


def called(step: int) -> ModelCalled:
    return ModelCalled(f"r1-{step}-m", "m", step, 1, "", Sampling(), "")


EVENTS: Sequence[Event] = (
    RunStarted(Profile("demo", "m", "", (), Sampling(), 8)),
    called(1),
    ModelReturned("r1-1-m", "Let me look.", "tool_calls", USED, (OWN, FIRST, SECOND)),
    ToolCalled("r1-1-t0", OWN, "pure"),
    ToolHandedOver("r1-1-t1", FIRST),
    ToolHandedOver("r1-1-t2", SECOND),
    ToolReturned("r1-1-t0", "c0", "done", usage=Usage(3, 1)),
    ToolReturned("r1-1-t1", "c1", "one"),
    ToolReturned("r1-1-t2", "c2", "two"),
    called(2),
    ModelReturned("r1-2-m", "There.", "stop", USED),
    RunFinished("There.", 2, USED + USED + Usage(3, 1), cost=0.0),
)


def frames() -> list[Committed]:
    return [committed(COMMAND, at, event) for at, event in enumerate(EVENTS, 1)]


def told(turn: Turn, some: Sequence[Committed]) -> list[Told]:
    return [one for frame in some for one in turn.feed(frame)]


def test_a_turn_ends_where_all_that_is_left_waits_for_the_client_and_goes_on_with_its_results() -> None:
    turn, all_of = Turn("t1"), frames()
    *_, handed = told(turn, all_of)
    assert turn.over
    assert isinstance(handed, Handed)
    assert [call.id for call in handed.calls] == ["call_r1-1-t1_t1", "call_r1-1-t2_t1"]
    assert handed.usage == USED + Usage(3, 1)
    begun = turn.go_on(["r1-1-t1", "r1-1-t2"])
    rest = told(turn, all_of[7:])
    assert [type(one) for one in rest] == [Committed] * 5
    assert begun.usage == handed.usage


def test_a_result_alone_leaves_the_other_to_be_waited_for() -> None:
    turn, all_of = Turn("t1"), frames()
    told(turn, all_of[:7])
    turn.go_on(["r1-1-t1"])
    *_, handed = told(turn, all_of[7:])
    assert isinstance(handed, Handed)
    assert [call.id for call in handed.calls] == ["call_r1-1-t2_t1"]
    assert handed.usage == Usage()


def whole(some: Sequence[Told]) -> dict[str, Any]:
    encoder = ChatEncoder("r9", "agent/demo", 7, "run.finished", custom=("own",))
    return encoder.whole([chunk for frame in some for chunk in encoder.feed(frame)])


def test_what_each_answer_took_is_told_once() -> None:
    turn, all_of = Turn("t1"), frames()
    first = whole(told(turn, all_of[:7]))
    (choice,) = first["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "Let me look.")
    calls = choice["message"]["tool_calls"]
    assert [call["function"] for call in calls] == [
        {"name": "fetch", "arguments": '{"a": 1}'},
        {"name": "fetch", "arguments": "{}"},
    ]
    begun = turn.go_on(["r1-1-t1", "r1-1-t2"])
    second = whole([begun, *told(turn, all_of[7:])])
    assert second["choices"][0]["message"]["content"] == "There."
    assert (first["usage"].prompt_tokens, second["usage"].prompt_tokens) == (13, 10)
    assert (first["usage"].completion_tokens, second["usage"].completion_tokens) == (6, 5)


def test_a_cost_that_is_not_known_of_a_part_is_not_known() -> None:
    finished = committed(COMMAND, 1, RunFinished("x", 1, USED, cost=0.5))
    assert whole([Resumed(Usage(), 0.2), finished])["usage"].cost == pytest.approx(0.3)
    assert whole([Resumed(Usage(), None), finished])["usage"].cost is None


def answer(identity: str) -> Message:
    return Message("tool", "x", tool_call_id=identity)


def test_results_are_those_that_the_conversation_ends_with() -> None:
    asked = Message("assistant", "", (FIRST,))
    ours = call_id("r1-1-t1", "t_1")
    found = results_in([asked, answer(ours), answer("call_else"), Message("user", "and?")])
    assert found is not None
    assert (found.thread, found.contents) == ("t_1", {"r1-1-t1": "x"})
    assert [message.content for message in found.said] == ["and?"]
    assert results_in([asked, answer(ours), Message("assistant", "So."), Message("user", "on")]) is None
    assert results_in([asked, answer("call_else")]) is None
    with pytest.raises(ValueError, match="several threads"):
        results_in([asked, answer(ours), answer(call_id("r1-1-t2", "t2"))])


@pytest.mark.parametrize("effect", ["r1-1-t0", "s0123-r-2-t11", "r-1-t0-1-t2"])
@pytest.mark.parametrize("thread", ["t1", "a_b-1-t2", "t-"])
def test_an_id_tells_its_effect_and_its_thread(effect: str, thread: str) -> None:
    identity = call_id(effect, thread)
    found = results_in([answer(identity)])
    assert found is not None
    assert (list(found.contents), found.thread) == ([effect], thread)


def test_an_id_of_our_own_making_is_short_enough_for_every_client() -> None:
    assert len(call_id(f"r{'0' * 22}-12-t12", f"t{'0' * 22}")) <= 64


OPEN, CLOSED = AgentOffered("demo", open_to=("system", "reasoning_effort")), AgentOffered("demo")
INSTRUCTED = {
    "model": "agent/demo",
    "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}],
    "reasoning_effort": "low",
}


@pytest.mark.parametrize(
    ("agent", "unopened", "status", "left_out"),
    [
        (OPEN, "refuse", 200, None),
        (CLOSED, "leave_out", 200, "system, reasoning_effort"),
        (CLOSED, "refuse", 400, None),
    ],
)
def test_what_an_agent_is_not_open_to_is_left_out_and_said_to_be_or_refused(
    monkeypatch: pytest.MonkeyPatch, agent: AgentOffered, unopened: Any, status: int, left_out: str | None
) -> None:
    limits = LimitSettings(unopened=unopened)
    door = Scripted(monkeypatch, run, offered=(agent,), limits=limits)
    told = door.send("POST", "/v1/chat/completions", body=json.dumps(INSTRUCTED).encode())
    assert (told.status_code, told.headers.get("x-ostinato-left-out")) == (status, left_out), told.text
    if status == 200:
        heard = (door.asked.system, door.asked.reasoning_effort)
        assert heard == (("Be kind.", "low") if left_out is None else ("", None))
    else:
        assert told.json()["error"]["param"] == "messages"
