"""Tools in the background, on a real server: their results are turns of the thread, once each, whoever dies."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from actors.agent.definition import Agent
from actors.agent.delegation import child_thread
from actors.delegates import agent_tool
from actors.models.provider import ModelCall
from actors.testing import Say, ScriptedModel
from actors.tools import ToolContext, tool
from bus.commands import send_command
from bus.connection import Connection
from bus.streams import ensure_streams
from schemas.commands import CancelTask, Command
from schemas.live import Committed
from schemas.messages import ToolCall
from schemas.runs import RunFailed, RunFinished, ToolResumed
from schemas.tasks import TaskCancelled, TaskEnded
from tests.actors.runtime.bench import Bench, answer_of, ends, hearing, owning, run, until

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(30)]

TASK = "c1-1-t0b"


@dataclass
class Digging:
    """What the tools in the background do."""

    dug: list[str] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def dig(self, context: ToolContext) -> str:
        self.dug.append(context.key)
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped.set()
            raise
        return "gold"


def digging(call: ModelCall) -> Say:
    """Dig where that is asked for, then say what there is to say."""
    last = call.messages[-1]
    if last.role == "user" and last.content in {"dig", "mine", "ask"} and call.tools:
        name = {"ask": "worker"}.get(last.content, last.content)
        return ToolCall("k1", name, '{"message": "dig"}' if name == "worker" else "{}")
    return f"re: {last.content}"


@pytest.fixture
async def made(connection: Connection, nats_url: str) -> tuple[Bench, Digging]:
    await ensure_streams(connection, 1)
    there = Digging()

    @tool(effect="idempotent", background=True)
    async def dig(context: ToolContext) -> str:
        """Dig."""
        return await there.dig(context)

    @tool(effect="once", background=True)
    async def mine(context: ToolContext) -> str:
        """Dig, once."""
        return await there.dig(context)

    bench = Bench(connection, nats_url, ScriptedModel(digging))
    worker = agent_tool("worker", "Digs.", background=True)
    bench.agents = [Agent("digger", "Dig.", tools=[dig, mine, worker]), Agent("worker", "Dig.")]
    return bench, there


async def test_a_run_goes_on_at_once_and_the_thread_is_told_later(made: tuple[Bench, Digging]) -> None:
    bench, there = made
    async with owning(bench.runtime("p1")), hearing(bench, f"run.{TASK}") as watcher:
        receipt = await answer_of(bench, run("c1", "dig", agent="digger"))
        assert TASK in receipt
        assert await answer_of(bench, run("c2", "hello", agent="digger")) == "re: hello"
        there.go.set()
        await until(watcher, ends)
    assert (await bench.events(RunFinished))[-1].text == (f"re: The background task {TASK!r} (dig) has returned:\ngold")
    assert there.dug == [f"acme/t1/{TASK}"]
    await bench.verified("t1")


@pytest.mark.parametrize(("name", "outcome"), [("dig", "returned"), ("mine", "unknown")])
async def test_a_task_outlives_its_process_and_is_told_of_once(
    made: tuple[Bench, Digging], name: str, outcome: str
) -> None:
    bench, there = made
    async with owning(bench.runtime("p1")):
        await answer_of(bench, run("c1", name, agent="digger"))
        await asyncio.wait_for(there.begun.wait(), 5)
    there.go.set()
    async with hearing(bench, f"run.{TASK}") as watcher:
        async with owning(bench.runtime("p2")):
            await until(watcher, ends)
        async with owning(bench.runtime("p3")):
            assert await answer_of(bench, run("c2", "hello", agent="digger")) == "re: hello"
    assert [event.outcome for event in await bench.events(TaskEnded)] == [outcome]
    assert len(await bench.events(ToolResumed)) == (outcome == "returned")
    assert len(there.dug) == 1 + (outcome == "returned")
    assert len(await bench.events(RunFinished)) == 3
    await bench.verified("t1")


def cancelling(task: str = TASK) -> Command:
    data = CancelTask(task, "no need")
    return Command(id="x1", tenant="acme", kind="agent", thread="t1", verb="cancel", data=data, source="test")


async def test_a_task_that_is_cancelled_stops_and_nothing_comes_of_it(made: tuple[Bench, Digging]) -> None:
    bench, there = made
    async with owning(bench.runtime("p1")):
        await answer_of(bench, run("c1", "dig", agent="digger"))
        await asyncio.wait_for(there.begun.wait(), 5)
        await send_command(bench.connection, cancelling())
        await asyncio.wait_for(there.stopped.wait(), 5)
        assert await answer_of(bench, run("c2", "hello", agent="digger")) == "re: hello"
    assert await bench.events(TaskCancelled) == [TaskCancelled(TASK, "test", "no need")]
    assert not await bench.events(TaskEnded)
    await bench.verified("t1")


async def test_another_agent_in_the_background_counts_for_the_turn_and_is_ended_with_its_task(
    made: tuple[Bench, Digging],
) -> None:
    bench, _ = made
    async with owning(bench.runtime("p1")):
        async with hearing(bench, f"run.{TASK}") as watcher:
            await answer_of(bench, run("c1", "ask", agent="digger"))
            await until(watcher, ends)
        told = (await bench.events(RunFinished))[-1]
        assert "re: dig" in told.text
        assert told.usage.completion_tokens == 2
        bench.model.hold = asyncio.Event()
        child = child_thread("acme", "t1", "c2-1-t0b")
        async with hearing(bench, f"run.{child}-r") as watcher:
            await send_command(bench.connection, run("c2", "ask", agent="digger"))
            await until(watcher, lambda frame: not isinstance(frame, Committed))
            await send_command(bench.connection, cancelling("c2-1-t0b"))
            await until(watcher, ends)
    assert [event.problem.kind for event in await bench.events(RunFailed)] == ["aborted"]
    for thread in ("t1", child):
        await bench.verified(thread)
