"""What a model is shown: never more than the plan has room for, whole turns, and the same beginning for long."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.agent.definition import Agent
from actors.agent.effects import CallModel
from actors.agent.profiles import profile_of
from actors.memory.plan import Memory
from actors.memory.window import first_shown, weight
from actors.request_context import RequestContext
from actors.toolsets import Surroundings
from schemas.commands import RunAgent
from schemas.memory import MemoryPlan, MemoryWrite
from schemas.messages import Message, ToolCall, Usage, misplaced_in
from schemas.runs import ModelCalled, ToolReturned, WorkingWritten
from tests.actors.agent.test_loop import PROFILE, World, said

AROUND = Surroundings("acme", "t1", RequestContext(), None)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    found = []
    for turn in range(draw(st.integers(1, 12))):
        found.append(Message("user", "u" * draw(st.integers(0, 200))))
        for step in range(draw(st.integers(0, 2))):
            call = ToolCall(f"{turn}-{step}", "look", "{}")
            found += [Message("assistant", "", (call,)), Message("tool", "ok", tool_call_id=call.id)]
        found.append(Message("assistant", "a" * draw(st.integers(0, 200))))
    return found


@given(conversations(), st.integers(0, 12), st.integers(0, 400), st.integers(1, 1000))
def test_what_is_shown_fits_or_is_the_last_turn_alone_and_answers_every_call(
    messages: list[Message], last: int, tokens: int, rate: int
) -> None:
    plan, first = MemoryPlan(last=last, tokens=tokens), 0
    for end in range(1, len(messages) + 1):
        if messages[end - 1].role == "assistant" and messages[end - 1].tool_calls:
            continue
        before, first = first, first_shown(messages[:end], plan, first, rate)
        assert first >= before
        shown = messages[first:end]
        assert first == before or shown[0].role == "user"
        assert misplaced_in(shown) is None
        alone = not any(message.role == "user" for message in shown[1:])
        assert not last or len(shown) <= last or alone
        assert not tokens or sum(rate * weight(message) for message in shown) <= 1000 * tokens or alone


@given(conversations(), st.integers(1, 9))
def test_the_beginning_moves_seldom(messages: list[Message], last: int) -> None:
    plan, first, moved = MemoryPlan(last=2 * last), 0, 0
    for end in range(1, len(messages) + 1):
        after = first_shown(messages[:end], plan, first, 300)
        moved += after != first
        first = after
    assert moved <= max(1, len(messages) // max(1, last))


def run(world: World, name: str, text: str, profile: Any, answer: str = "ok") -> CallModel:
    world.ask(name, profile, text=text)
    effect = world.open[f"{name}-1-m"]
    assert isinstance(effect, CallModel)
    world.result(said(f"{name}-1-m", answer))
    return effect


def test_a_call_records_from_where_on_the_model_saw_the_thread() -> None:
    world, plan = World(), msgspec.structs.replace(PROFILE, memory=MemoryPlan(last=12))
    seen = [run(world, f"c{n}", f"question {n}", plan) for n in range(10)]
    called = world.events(ModelCalled)
    firsts = [event.first for event in called]
    assert firsts == sorted(firsts)
    assert len(set(firsts)) < len(firsts) / 2
    for effect, event in zip(seen, called, strict=True):
        assert effect.messages == world.state.messages[event.first : event.seen]
    assert len(world.state.messages) == 20, "what is not shown is kept"
    world.verified()


def test_the_budget_goes_by_what_the_engine_counted() -> None:
    world, plan = World(), msgspec.structs.replace(PROFILE, memory=MemoryPlan(tokens=100))
    world.ask("c1", plan, text="x" * 100)
    world.result(msgspec.structs.replace(said("c1-1-m", "ok"), usage=Usage(56)))
    assert world.state.memory.rate == 500
    world.verified()


def test_working_memory_stands_before_the_question_and_all_ahead_of_it_stays() -> None:
    agent = Agent("demo", "", memory=Memory(working="- name:"))
    plan = msgspec.structs.replace(PROFILE, memory=agent.memory.plan() if agent.memory else None)
    world = World()
    first = run(world, "c1", "I am Ann", plan, "hello")
    assert first.messages[0].content == "<working_memory>\n- name:\n</working_memory>\n\nI am Ann"
    second = run(world, "c2", "again", plan)
    assert second.messages[:2] == world.state.messages[:2], "no trace of it in earlier turns"
    assert second.messages[2].content.endswith("</working_memory>\n\nagain")
    assert world.state.messages[2].content == "again"
    world.verified()


@pytest.mark.anyio
async def test_a_write_is_an_event_and_is_shown_from_the_next_run_on() -> None:
    agent = Agent("demo", "", memory=Memory(working="- name:"))
    world, plan = World(), await profile_of(agent, RunAgent("demo", "hi"), AROUND, "m")
    assert [binding.name for binding in plan.tools] == ["update_working_memory"]
    world.ask("c1", plan, text="I am Ann")
    world.result(said("c1-1-m", "", [ToolCall("k", "update_working_memory", '{"content":"- name: Ann"}')]))
    write = MemoryWrite(topic="", text="- name: Ann", scope="working")
    world.result(ToolReturned("c1-1-t0", "k", "remembered", (write,)))
    assert world.events(WorkingWritten) == [WorkingWritten(content="- name: Ann")]
    again = world.open["c1-2-m"]
    assert isinstance(again, CallModel)
    assert "- name:\n" in again.messages[0].content, "a run's prompt begins the same at each of its steps"
    world.crash()
    assert world.open["c1-2-m"] == again
    world.result(said("c1-2-m", "hello"))
    assert "- name: Ann" in run(world, "c2", "who am I?", plan).messages[-1].content
    world.verified()
