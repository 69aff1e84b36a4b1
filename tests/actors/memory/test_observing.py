"""Compaction: older messages are condensed after a turn, by an event, and can be read again by their numbers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest

from actors.agent.actor import AgentPerformer
from actors.agent.definition import Agent
from actors.agent.effects import CallModel
from actors.agent.observer import Observer
from actors.memory.observing import MOST, Condensing, recall_tool
from actors.memory.plan import Memory
from actors.models.provider import ModelCall
from actors.processors.patterns import RegexFilter
from actors.testing import FixedClock, ScriptedModel
from actors.tools import ToolContext
from bus.commands import send_command
from bus.connection import Connection
from bus.live import Live
from bus.streams import ensure_streams
from schemas.memory import MemoryPlan, Observe, Observed, ThreadRenamed
from schemas.messages import Message
from schemas.runs import CommandRefused, Problem
from tests.actors.agent.test_loop import PROFILE, World, said
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


def test_older_turns_are_chosen_and_with_many_observations_all_are_rewritten() -> None:
    condensing = Condensing(MemoryPlan(observe=40), TURNS, 10, ["- a"])
    assert (condensing.count % 2, condensing.count > 0, condensing.whole) == (0, True, False)
    assert "user 0" in condensing.prompt()
    assert "- a" in condensing.prompt()
    data = condensing.outcome("  - new \n")
    assert data == Observe(after=10, upto=10 + condensing.count, text="- new")
    assert condensing.outcome(" ") is None
    assert Condensing(MemoryPlan(observe=40), TURNS, 0, ["-"] * MOST).whole
    assert Condensing(MemoryPlan(observe=100_000), TURNS, 0, []).count == 0


async def test_messages_are_read_again_by_their_numbers() -> None:
    context = ToolContext("acme", "t1", "k", 0, {}, messages=TURNS)
    output = await recall_tool().call('{"first": 2, "last": 3}', context)
    assert output.content == "2 user: user 1\n3 assistant: assistant 1"
    with pytest.raises(LookupError, match="messages 0 to 7"):
        await recall_tool().call('{"first": 99, "last": 100}', context)


@dataclass
class Condensed(Bench):
    """A bench whose agent has its history condensed."""

    observer: Observer | None = None

    def agent(self) -> Agent:
        return replace(super().agent(), memory=Memory(observe=5, titles=True), processors=(RegexFilter(),))

    def runtime(self, process: str, connection: Connection | None = None, machine: Any = None) -> Any:
        runtime = super().runtime(process, connection, machine)
        clock = FixedClock()
        self.observer = Observer(lambda command: send_command(self.connection, command), clock)
        performer = AgentPerformer(
            [self.agent()], {"m": self.model}, "m", Live(self.connection), clock, observer=self.observer
        )
        return replace(runtime, performers={**runtime.performers, "agent": performer})


@pytest.mark.servers
@pytest.mark.deadline(40)
async def test_a_long_history_is_condensed_after_its_turn_and_a_failure_changes_nothing(
    connection: Connection, nats_url: str
) -> None:
    fails = [True]

    def script(call: ModelCall) -> Any:
        if "a title of" in call.messages[-1].content:
            return '"A cat called Mitzi"\nand more'
        if not call.messages[-1].content.endswith("Observations:"):
            return "fine"
        assert "ann@example.org" not in call.messages[-1].content
        return Problem("overloaded", "not now") if fails else "- her cat is Mitzi"

    await ensure_streams(connection, 1)
    bench = Condensed(connection, nats_url, ScriptedModel(script))
    async with owning(bench.runtime("p1")):
        for n in range(6):
            async with hearing(bench, f"run.c{n}", f"command.observe-{2 * n}-t1") as watcher:
                await send_command(connection, run(f"c{n}", "my mail is ann@example.org and my cat is Mitzi " * 3))
                await until(watcher, ends)
                assert bench.observer is not None
                await bench.observer.settled()
            if n == 4:
                assert not await bench.events(Observed)
                fails.clear()
        async with hearing(bench, "run.last") as watcher:
            await send_command(connection, run("last"))
            await until(watcher, ends)
            await bench.observer.settled()
    observed = await bench.events(Observed)
    assert observed[0].text == "- her cat is Mitzi"
    assert observed[0].at.startswith("2026-01-01")
    assert await bench.events(ThreadRenamed) == [ThreadRenamed(title="A cat called Mitzi", by="observer")]
    shown = [call for call in bench.model.calls if call.effect == "last-1-m"]
    assert "<observations>" in shown[0].messages[1].content
    await bench.verified("t1")


@pytest.mark.servers
@pytest.mark.deadline(40)
async def test_what_was_not_condensed_when_its_process_ended_is_condensed_once_after_the_next_turn(
    connection: Connection, nats_url: str
) -> None:
    asked, dies = asyncio.Event(), True

    def script(call: ModelCall) -> Any:
        if call.effect.endswith((".observer", ".title")) and dies:
            asked.set()
            raise asyncio.CancelledError  # as at the end of a process: nothing comes of it
        if call.effect.endswith(".title"):
            return "A cat"
        return "- her cat is Mitzi" if call.effect.endswith(".observer") else "fine"

    await ensure_streams(connection, 1)
    bench = Condensed(connection, nats_url, ScriptedModel(script))

    async def turn(name: str) -> None:
        async with hearing(bench, f"run.{name}") as watcher:
            await send_command(connection, run(name, "my cat is Mitzi " * 3))
            await until(watcher, ends)

    async with owning(bench.runtime("p1")):
        for n in range(4):
            await turn(f"c{n}")
        await asyncio.wait_for(asked.wait(), 5)
    assert not await bench.events(Observed)
    dies = False
    async with owning(bench.runtime("p2")):
        await turn("c4")
        assert bench.observer is not None
        await bench.observer.settled()
        await turn("c5")
        await bench.observer.settled()
        await turn("c6")
    observed = await bench.events(Observed)
    assert observed
    assert [event.first for event in observed] == [0, *(event.upto for event in observed[:-1])]
    assert [event.title for event in await bench.events(ThreadRenamed)] == ["A cat"]
    await bench.verified("t1")
