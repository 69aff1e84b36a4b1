"""What an agent's functions ask of a model before a step: for whom, again after a crash, and stopped with the run."""

from __future__ import annotations

import asyncio

import pytest

from actors.agent import hooks
from actors.agent.definition import Agent
from actors.agent.selection import ModelSelection
from actors.delegates import agent_tool
from actors.models.provider import ModelAnswer, ModelCall, OnText
from actors.testing import Say, ScriptedModel
from bus.commands import send_command
from bus.connection import Connection
from bus.streams import ensure_streams
from schemas.commands import AbortRun, Command
from schemas.hooks import StepPrepared
from schemas.messages import ToolCall
from tests.actors.runtime.bench import Bench, hearing, owning, run, until

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(30)]

CHOOSING = ModelSelection({"m": "all", "other": "nothing"})


def is_asked(call: ModelCall) -> bool:
    return "Which of these is the text for?" in call.messages[-1].content


def working(call: ModelCall) -> Say:
    """Choose the model where that is asked, have another agent work where there is one, else say so."""
    if is_asked(call):
        return "A"
    if call.tools and call.messages[-1].role == "user":
        return ToolCall("k1", call.tools[0].name, '{"message": "do"}')
    return "worked"


class Stuck(ScriptedModel):
    """Chooses for ever, once, and says when it is asked and stopped."""

    def __init__(self) -> None:
        super().__init__(working)
        self.begun, self.stopped = asyncio.Event(), asyncio.Event()

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Be asked."""
        if is_asked(call) and not self.begun.is_set():
            self.calls.append(call)
            self.begun.set()
            await asyncio.Event().wait()
        return await super().call(call, on_text)

    async def abort(self, request: str) -> None:
        """Note it."""
        await super().abort(request)
        self.stopped.set()


async def bench_of(connection: Connection, nats_url: str, model: ScriptedModel) -> Bench:
    await ensure_streams(connection, 1)
    worker = Agent("worker", "Do.", prepare_step=CHOOSING)
    return Bench(connection, nats_url, model, agents=[Agent("boss", "Help.", tools=[agent_tool("worker", "")]), worker])


async def test_what_a_delegated_run_asks_beside_its_steps_is_spent_for_who_asked(
    connection: Connection, nats_url: str
) -> None:
    bench = await bench_of(connection, nats_url, ScriptedModel(working))
    async with owning(bench.runtime("p1")), hearing(bench, "run.r1") as watcher:
        await send_command(connection, run("r1", agent="boss"))
        await until(watcher, lambda frame: getattr(frame, "type", "") == "run.finished")
    assert [call.spends_for for call in bench.model.calls if is_asked(call)] == [("t1", "r1")]


async def test_what_is_asked_once_more_after_a_crash_says_so(connection: Connection, nats_url: str) -> None:
    model = Stuck()
    bench = await bench_of(connection, nats_url, model)
    async with owning(bench.runtime("p1")):
        await send_command(connection, run("r1", agent="worker"))
        await asyncio.wait_for(model.begun.wait(), 5)
    assert model.aborted == []  # whoever owns the thread next has it
    async with hearing(bench, "run.r1") as watcher, owning(bench.runtime("p2")):
        await until(watcher, lambda frame: getattr(frame, "type", "") == "run.finished")
    assert [call.again for call in model.calls if is_asked(call)] == [False, True]
    await bench.verified("t1")


async def test_what_is_asked_before_a_step_of_a_run_that_is_aborted_is_stopped(
    connection: Connection, nats_url: str
) -> None:
    model = Stuck()
    bench = await bench_of(connection, nats_url, model)
    async with owning(bench.runtime("p1")):
        await send_command(connection, run("r1", agent="worker"))
        await asyncio.wait_for(model.begun.wait(), 5)
        abort = Command(id="x", tenant="acme", kind="agent", thread="t1", verb="abort", data=AbortRun())
        await send_command(connection, abort)
        await asyncio.wait_for(model.stopped.wait(), 5)
    assert model.aborted == [model.calls[0].request]
    assert not await bench.events(StepPrepared)


async def test_what_is_asked_by_a_function_that_takes_too_long_is_stopped(
    connection: Connection, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "HOOK_S", 0.2)
    model = Stuck()
    bench = await bench_of(connection, nats_url, model)
    async with owning(bench.runtime("p1")), hearing(bench, "run.r1") as watcher:
        await send_command(connection, run("r1", agent="worker"))
        await until(watcher, lambda frame: getattr(frame, "type", "") == "run.failed")
    assert model.aborted == [model.calls[0].request]
    (prepared,) = await bench.events(StepPrepared)
    assert "took longer" in prepared.failure
