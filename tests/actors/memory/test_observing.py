"""Compaction: older messages are condensed after a turn, by an event, and can be read again by their numbers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from actors.agent.actor import AgentPerformer
from actors.agent.condensing import Condense
from actors.agent.definition import Agent
from actors.agent.effects import CallModel
from actors.agent.entitling import Entitler
from actors.memory.observing import MOST, condensable, condensing_prompt, is_rewritten, recall_tool
from actors.memory.plan import Memory
from actors.models.asking import missing_model
from actors.models.provider import ModelCall
from actors.processors.patterns import RegexFilter
from actors.testing import FixedClock, ScriptedModel
from actors.tools import ToolContext
from bus.commands import send_command
from bus.connection import Connection
from bus.live import Live
from bus.streams import ensure_streams
from schemas.generation import request_id
from schemas.memory import (
    CondensingBegun,
    CondensingEnded,
    DeleteThread,
    MemoryPlan,
    Observe,
    Observed,
    ThreadRenamed,
)
from schemas.messages import Message, ToolCall, Usage
from schemas.runs import CommandRefused, Problem
from schemas.structured import Structured
from tests.actors.agent.test_loop import MACHINE, PROFILE, World, said
from tests.actors.runtime.bench import Bench, ends, hearing, owning, run, until

pytestmark = pytest.mark.anyio

PLAN = msgspec.structs.replace(PROFILE, memory=MemoryPlan(observe=100))
TURNS = [Message(role, f"{role} {n}") for n in range(4) for role in ("user", "assistant")]  # type: ignore[arg-type]


def turn(world: World, name: str, text: str = "question") -> CallModel:
    world.ask(name, PLAN, text=text)
    effect = world.open[f"{name}-1-m"]
    assert isinstance(effect, CallModel)
    world.result(said(f"{name}-1-m", f"answer {name}"))
    return effect


def test_what_was_condensed_stands_in_the_place_of_messages_which_are_kept() -> None:
    world = World()
    for n in range(3):
        turn(world, f"c{n}")
    world.settle("o1", Observe(after=0, upto=4, text="- she asked twice"))
    assert len(world.state.messages) == 6
    effect = turn(world, "c3", "and now?")
    assert effect.called.first == 4
    assert effect.messages[0].content == (
        "<observations>\n[earlier, messages 0 to 3]\n- she asked twice\n</observations>\n\nquestion"
    )
    assert effect.messages[-1].content == "and now?"
    assert len(effect.messages) == 3
    world.verified()


def test_a_turn_under_way_is_shown_what_it_was_shown_at_its_beginning() -> None:
    world = World()
    turn(world, "c0")
    world.ask("c1", PLAN, text="hi")
    before = world.open["c1-1-m"]
    world.settle("o1", Observe(after=0, upto=2, text="- x"))
    world.crash()
    assert world.open["c1-1-m"].messages == before.messages  # type: ignore[attr-defined]
    world.result(said("c1-1-m", "ok"))
    world.verified()


@pytest.mark.parametrize(
    "data",
    [
        Observe(after=1, upto=2, text="x"),
        Observe(after=0, upto=1, text="x"),
        Observe(after=0, upto=4, text="x"),
        Observe(after=0, upto=0, text="x"),
    ],
)
def test_what_was_condensed_of_something_else_is_refused(data: Observe) -> None:
    world = World()
    turn(world, "c0")
    turn(world, "c1")
    (event,) = world.settle("o1", data)
    assert isinstance(event, CommandRefused)
    assert event.problem.field in {"after", "upto"}
    world.verified()


def test_the_same_messages_are_condensed_once_and_later_ones_added_or_all_rewritten() -> None:
    world = World()
    for n in range(4):
        turn(world, f"c{n}")
    world.settle("o1", Observe(after=0, upto=2, text="- one"))
    (again,) = world.settle("o2", Observe(after=0, upto=2, text="- one more"))
    assert isinstance(again, CommandRefused)
    world.settle("o3", Observe(after=2, upto=4, text="- two"))
    assert [text.splitlines()[-1] for text in world.state.memory.observations] == ["- one", "- two"]
    world.settle("o4", Observe(after=4, upto=6, text="- all", whole=True))
    assert world.state.memory.observations == ("[earlier, messages 0 to 5]\n- all",)
    world.verified()


LONG = msgspec.structs.replace(PROFILE, memory=MemoryPlan(observe=60, observe_timeout_ms=5000))


def long_turn(world: World, name: str, profile: Any = LONG) -> None:
    world.ask(name, profile, text="word " * 20)
    answer = msgspec.structs.replace(said(f"{name}-1-m", "answer"), usage=Usage(prompt_tokens=61))
    world.result(answer)


def ended(effect: Condense, text: str = "", **fields: Any) -> CondensingEnded:
    begun = effect.begun
    return CondensingEnded(effect.id, begun.first, begun.upto, text, "2026-01-02", begun.whole, **fields)


def condensing(world: World) -> Condense:
    (effect,) = (effect for effect in world.open.values() if isinstance(effect, Condense))
    return effect


def test_what_took_too_much_is_condensed_by_an_effect_with_a_time_at_which_it_is_given_up() -> None:
    world = World()
    for n in range(3):
        long_turn(world, f"c{n}")
    effect = condensing(world)
    assert (effect.id, effect.begun.first, effect.begun.upto) == ("c1-1-c", 0, 2)
    assert effect.begun.at == effect.begun.decided + 5_000_000
    assert len(world.events(CondensingBegun)) == 1  # one at a time
    world.crash()
    assert condensing(world) == effect
    (observed,) = world.result(ended(effect, "- she repeats herself"))
    assert observed == Observed(upto=2, text="- she repeats herself", first=0, at="2026-01-02")
    long_turn(world, "c3")
    assert condensing(world).begun.first == 2
    world.verified()


def test_what_comes_to_nothing_is_due_again_after_the_next_turn_and_changes_nothing() -> None:
    world = World()
    long_turn(world, "c0")
    long_turn(world, "c1")
    effect = condensing(world)
    assert world.result(ended(effect, kind="timeout", reason="too late")) == []
    assert not world.state.memory.observations
    long_turn(world, "c2")
    assert condensing(world).id == "c2-1-c"
    assert condensing(world).begun.first == 0
    world.verified()


def test_what_was_condensed_of_a_history_that_is_otherwise_by_now_is_dropped() -> None:
    world = World()
    long_turn(world, "c0")
    long_turn(world, "c1")
    effect = condensing(world)
    world.settle("o1", Observe(after=0, upto=2, text="- by hand"))
    assert world.result(ended(effect, "- by the model")) == []
    assert len(world.state.memory.observations) == 1
    world.verified()


def test_a_thread_that_is_deleted_condenses_no_more() -> None:
    world = World()
    long_turn(world, "c0")
    long_turn(world, "c1")
    assert condensing(world)
    world.settle("d1", DeleteThread())
    assert not any(isinstance(effect, Condense) for effect in MACHINE.open_effects(world.state))
    world.verified()


def test_a_run_from_before_condensing_was_an_effect_is_decided_as_it_was() -> None:
    world = World()
    old = msgspec.structs.replace(LONG, memory=MemoryPlan(observe=60))
    for n in range(3):
        long_turn(world, f"c{n}", old)
    assert not world.events(CondensingBegun)
    world.verified()


def test_older_turns_are_chosen_and_with_many_observations_all_are_rewritten() -> None:
    plan = MemoryPlan(observe=40)
    count = condensable(plan, TURNS)
    assert (count % 2, count > 0, TURNS[count].role) == (0, True, "user")
    assert (is_rewritten(["- a"]), is_rewritten(["-"] * MOST)) == (False, True)
    prompt = condensing_prompt(plan, TURNS[:count], ["- a"], whole=False)
    assert "user 0" in prompt
    assert "- a" in prompt
    assert "Rewrite" not in prompt
    assert "Rewrite" in condensing_prompt(plan, TURNS[:count], ["- a"], whole=True)
    assert condensable(MemoryPlan(observe=100_000), TURNS) == 0


def test_of_a_history_that_is_far_too_long_no_more_is_condensed_at_once_than_the_model_has_room_for() -> None:
    many = [Message(role, "word " * 200) for _ in range(50) for role in ("user", "assistant")]
    count = condensable(MemoryPlan(observe=2000), many)
    assert count == 6
    huge = [Message("user", "begin " + "é" * 2_000_000 + " end"), Message("assistant", "yes"), *many[:2]]
    assert condensable(MemoryPlan(observe=2000), huge) == 2
    prompt = condensing_prompt(MemoryPlan(observe=2000), huge[:2], [], whole=False)
    assert "begin" in prompt
    assert "end\nassistant: yes" in prompt
    assert len(prompt.encode()) < 8000


def test_a_turn_of_tools_alone_is_shown_to_whoever_condenses_it() -> None:
    called = Message("assistant", tool_calls=(ToolCall("k", "find", '{"what": "cats"}'),))
    said = [Message("user"), called, Message("tool", "", tool_call_id="k")]
    assert 'assistant: find({"what": "cats"})' in condensing_prompt(MemoryPlan(observe=9), said, [], whole=False)


async def test_messages_are_read_again_by_their_numbers() -> None:
    context = ToolContext("acme", "t1", "k", 0, {}, messages=TURNS)
    output = await recall_tool().call('{"first": 2, "last": 3}', context)
    assert output.content == "2 user: user 1\n3 assistant: assistant 1"
    with pytest.raises(LookupError, match="messages 0 to 7"):
        await recall_tool().call('{"first": 99, "last": 100}', context)


@dataclass
class Endless(ScriptedModel):
    """A scripted model that does not end some calls, and knows which it was told to stop."""

    endless: tuple[str, ...] = ()
    """Ends of the effects of those calls."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, call: ModelCall, on_text: Any) -> Any:
        """Answer, or never."""
        if self.endless and call.effect.endswith(self.endless):
            self.calls.append(call)
            self.asked.set()
            await asyncio.Event().wait()
        return await super().call(call, on_text)


@dataclass
class Condensed(Bench):
    """A bench whose agent has its history condensed."""

    entitler: Entitler | None = None
    limit_s: float = 30.0
    other: ScriptedModel | None = None
    """That condenses and finds titles in the place of the agent's own."""

    def agent(self) -> Agent:
        memory = Memory(observe=3, titles=True, observe_timeout_s=self.limit_s, model="other" if self.other else "")
        return replace(super().agent(), memory=memory, processors=(RegexFilter(),))

    def runtime(self, process: str, connection: Connection | None = None, machine: Any = None) -> Any:
        runtime = super().runtime(process, connection, machine)
        clock = FixedClock()
        self.entitler = Entitler(lambda command: send_command(self.connection, command), clock, self.limit_s)
        models = {"m": self.model} | ({} if self.other is None else {"other": self.other})
        performer = AgentPerformer([self.agent()], models, "m", Live(self.connection), clock, entitler=self.entitler)
        return replace(runtime, performers={**runtime.performers, "agent": performer})


TEXT = "my mail is ann@example.org and my cat is Mitzi " * 3


async def turned(bench: Condensed, name: str, *, condenses: bool = True, text: str = TEXT) -> list[Any]:
    """Have a turn, and what follows from it come to its end; return how condensing ended."""
    wanted = [f"run.{name}", *(["thread.t1"] if condenses else [])]
    async with hearing(bench, *wanted) as watcher:
        await send_command(bench.connection, run(name, text))
        left = {"run.finished", *(["condensing.ended"] if condenses else [])}

        def all_over(frame: Any) -> bool:
            left.discard(getattr(frame, "type", ""))
            return not left

        await until(watcher, all_over)
    assert bench.entitler is not None
    await bench.entitler.settled()
    return await bench.events(CondensingEnded)


def script(call: ModelCall) -> Any:
    if call.effect.endswith(".title"):
        return '"A cat called Mitzi"\nand more'
    if call.effect.endswith("-c"):
        assert "ann@example.org" not in call.messages[-1].content
        return "- her cat is Mitzi"
    return "fine"


@pytest.mark.servers
@pytest.mark.deadline(40)
async def test_a_long_history_is_condensed_after_its_turn_and_a_failure_changes_nothing(
    connection: Connection, nats_url: str
) -> None:
    fails = [True]

    def failing(call: ModelCall) -> Any:
        return Problem("overloaded", "not now") if fails and call.effect.endswith("-c") else script(call)

    await ensure_streams(connection, 1)
    bench = Condensed(connection, nats_url, ScriptedModel(failing))
    async with owning(bench.runtime("p1")):
        await turned(bench, "c0", condenses=False)
        (ended,) = await turned(bench, "c1")
        assert (ended.kind, ended.reason, ended.text) == ("overloaded", "not now", "")
        assert not await bench.events(Observed)
        fails.clear()
        await turned(bench, "c2")
        await turned(bench, "last")
    observed = await bench.events(Observed)
    assert observed[0].text == "- her cat is Mitzi"
    assert observed[0].at.startswith("2026-01-01")
    assert [event.first for event in observed] == [0, observed[0].upto]
    assert await bench.events(ThreadRenamed) == [ThreadRenamed(title="A cat called Mitzi", by="observer")]
    shown = [call for call in bench.model.calls if call.effect == "last-1-m"]
    assert "<observations>" in shown[0].messages[1].content
    await bench.verified("t1")


@pytest.mark.servers
@pytest.mark.deadline(40)
async def test_another_model_may_condense_and_find_titles(connection: Connection, nats_url: str) -> None:
    await ensure_streams(connection, 1)
    bench = Condensed(connection, nats_url, ScriptedModel(lambda _: "fine"), other=ScriptedModel(script))
    async with owning(bench.runtime("p1")):
        await turned(bench, "c0", condenses=False)
        (ended,) = await turned(bench, "c1")
    assert ended.text == "- her cat is Mitzi"
    assert [event.title for event in await bench.events(ThreadRenamed)] == ["A cat called Mitzi"]
    assert bench.other is not None
    asked = {call.effect.rpartition(".")[2].rpartition("-")[2]: call for call in bench.other.calls}
    assert set(asked) == {"c", "title"}
    assert {call.model for call in bench.other.calls} == {"other"}
    assert [call.effect for call in bench.model.calls] == ["c0-1-m", "c1-1-m"]
    await bench.verified("t1")


def test_a_run_is_refused_where_the_model_of_its_memory_is_not_there() -> None:
    profile = msgspec.structs.replace(PROFILE, memory=Memory(observe=3, model="other").plan())
    problem = missing_model(profile, {"m": ScriptedModel(script)})
    assert problem is not None
    assert "no model 'other'" in problem.message


@pytest.mark.servers
@pytest.mark.deadline(40)
async def test_whatever_a_provider_does_while_it_condenses_ends_in_the_log_and_stops_no_thread(
    connection: Connection, nats_url: str
) -> None:
    outcomes: list[Any] = [TimeoutError(), ValueError("a secret"), " \n"]

    def ill(call: ModelCall) -> Any:
        if not call.effect.endswith("-c") or not outcomes:
            return script(call)
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    await ensure_streams(connection, 1)
    bench = Condensed(connection, nats_url, ScriptedModel(ill))
    async with owning(bench.runtime("p1")):
        await turned(bench, "c0", condenses=False)
        for name in ("c1", "c2", "c3", "c4"):
            ended = await turned(bench, name)
    assert [(one.kind, one.reason) for one in ended] == [
        ("engine", "the provider broke (TimeoutError)"),
        ("engine", "the provider broke (ValueError)"),
        ("engine", "the model said nothing"),
        ("", ""),
    ]
    assert len(await bench.events(Observed)) == 1
    await bench.verified("t1")


@pytest.mark.servers
@pytest.mark.deadline(40)
async def test_a_title_is_made_of_the_beginning_of_a_long_question(connection: Connection, nats_url: str) -> None:
    await ensure_streams(connection, 1)
    bench = Condensed(connection, nats_url, ScriptedModel(script))
    async with owning(bench.runtime("p1")):
        await turned(bench, "c0", condenses=False, text="cats " * 100_000)
    (asked,) = [call for call in bench.model.calls if call.effect.endswith(".title")]
    assert "cats cats" in asked.messages[0].content
    assert len(asked.messages[0].content) < 5000


@pytest.mark.servers
@pytest.mark.deadline(40)
async def test_what_asks_the_model_aside_and_never_ends_is_given_up_and_tried_again(
    connection: Connection, nats_url: str
) -> None:
    await ensure_streams(connection, 1)
    model = Endless(script, endless=("-c", ".title"))
    bench = Condensed(connection, nats_url, model, limit_s=0.05)
    async with owning(bench.runtime("p1")):
        await turned(bench, "c0", condenses=False)
        (ended,) = await turned(bench, "c1")
        assert (ended.kind, ended.reason) == ("timeout", "it took longer than 0.05 s")
        stopped = {request_id("acme", "t1", name) for name in ("c0-1-m.title", "c1-1-c", "c1-1-m.title")}
        assert stopped == set(model.aborted)
        model.endless = ()
        await turned(bench, "c2")
    (observed,) = await bench.events(Observed)
    assert observed.first == 0
    assert [event.title for event in await bench.events(ThreadRenamed)] == ["A cat called Mitzi"]
    await bench.verified("t1")


@pytest.mark.servers
@pytest.mark.deadline(40)
async def test_what_is_being_condensed_when_its_process_ends_is_condensed_once_by_the_next(
    connection: Connection, nats_url: str
) -> None:
    await ensure_streams(connection, 1)
    model = Endless(script, endless=("-c",))
    bench = Condensed(connection, nats_url, model)
    async with owning(bench.runtime("p1")):
        await turned(bench, "c0", condenses=False)
        async with hearing(bench, "run.c1") as watcher:
            await send_command(connection, run("c1", TEXT))
            await until(watcher, ends)
        await asyncio.wait_for(model.asked.wait(), 5)
    assert not await bench.events(Observed)
    model.endless = ()
    async with hearing(bench, "thread.t1") as watcher, owning(bench.runtime("p2")):
        await until(watcher, lambda frame: getattr(frame, "type", "") == "condensing.ended")
    (begun,) = await bench.events(CondensingBegun)
    (observed,) = await bench.events(Observed)
    assert (begun.first, begun.upto) == (observed.first, observed.upto)
    assert [call.again for call in model.calls if call.effect == begun.effect] == [False, True]
    await bench.verified("t1")


@pytest.mark.servers
@pytest.mark.deadline(40)
async def test_the_form_that_a_run_asks_of_its_answer_is_not_asked_of_what_is_condensed_or_of_a_title(
    connection: Connection, nats_url: str
) -> None:
    await ensure_streams(connection, 1)
    bench = Condensed(connection, nats_url, ScriptedModel(script))
    form = Structured("json_object")
    async with owning(bench.runtime("p1")):
        for name in ("c0", "c1"):
            async with hearing(bench, f"run.{name}", "thread.t1") as watcher:
                await send_command(connection, run(name, TEXT, structured=form))
                wanted = "run.finished" if name == "c0" else "condensing.ended"
                await until(watcher, lambda frame, wanted=wanted: getattr(frame, "type", "") == wanted)
    asked = {call.effect: call.sampling.structured for call in bench.model.calls}
    assert asked["c1-1-m"] == form
    assert (asked["c1-1-c"], asked["c0-1-m.title"]) == (None, None)
