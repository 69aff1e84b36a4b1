"""Runs as a Python program has them: its own tools, what it is asked, messages that join, answers of a type."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel

from actors.agent.definition import Agent
from actors.delegates import agent_tool
from actors.models.provider import ModelAnswer, ModelCall, OnText, Piece
from actors.testing import FixedClock, Say, ScriptedModel
from actors.tools import ToolContext, client_tool, tool
from bus.connection import Connection
from bus.errors import Unavailable
from bus.store import Store
from bus.streams import ensure_streams
from infra.client import Client
from infra.errors import Joined, NoAnswer
from infra.running import Running, Settling, Waiting
from schemas.live import Committed, Frame, Progress
from schemas.messages import ToolCall, Usage
from tests.actors.runtime.bench import Bench, owning

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(30)]


def using(call: ModelCall) -> Say:
    """Use the first tool, then say who says what it returned."""
    last = call.messages[-1]
    if last.role == "user" and call.tools:
        name = call.tools[0].name
        return ToolCall("k1", name, '{"message": "do"}' if name == "worker" else '{"what": "5"}')
    return f"{call.agent}: {last.content}"


@asynccontextmanager
async def served(
    connection: Connection, url: str, agents: Sequence[Agent], model: ScriptedModel | None = None
) -> AsyncIterator[Client]:
    async def no_store() -> Store:
        raise Unavailable("there is no record")

    await ensure_streams(connection, 1)
    bench = Bench(connection, url, model or ScriptedModel(using), agents=agents)
    async with owning(bench.runtime("p1")):
        yield Client(connection, bench.read_back, no_store, "acme")


@tool(effect="once", needs_approval=True)
def pay(what: str) -> str:
    """Pay."""
    return f"paid {what}"


async def test_a_function_of_the_program_is_run_in_it_and_knows_whom_it_serves(
    connection: Connection, nats_url: str
) -> None:
    seen: list[Any] = []

    @tool(effect="pure")
    def here(what: str, context: ToolContext) -> str:
        """Do it here."""
        context.progress({"half": what})
        seen.append((what, dict(context.request), context.agent, context.thread, context.run, context.key))
        return "done here"

    async with served(connection, nats_url, [Agent("boss", "Help.")]) as client:
        running = client.stream("boss", "go", thread="t1", tools=[here], context={"user": "ann"})
        frames = [frame async for frame in running]
        assert running.answer().text == "boss: done here"
        effect = f"{running.run}-1-t0"
        assert seen == [("5", {"user": "ann"}, "boss", "t1", running.run, f"acme/t1/{effect}")]
        told = [frame for frame in frames if isinstance(frame, Progress)]
        assert [(one.effect, one.thread, one.n, one.data) for one in told] == [(effect, "t1", 1, {"half": "5"})]


async def test_what_a_function_of_the_program_raises_is_the_models_to_read(
    connection: Connection, nats_url: str
) -> None:
    @tool(effect="pure")
    async def here(what: str) -> str:
        """Do it here."""
        raise LookupError("broken here")

    async with served(connection, nats_url, [Agent("boss", "Help.")]) as client:
        assert (await client.run("boss", "go", tools=[here])).text == "boss: error: broken here"


async def test_a_tool_of_the_callers_is_asked_of_it_by_an_agent_further_down(
    connection: Connection, nats_url: str
) -> None:
    asked: list[Waiting] = []

    async def answer(waits: Waiting) -> Settling | None:
        asked.append(waits)
        return waits.result("in Rome")

    agents = [
        Agent("boss", "Help.", tools=[agent_tool("worker", "Does.")]),
        Agent("worker", "Help.", tools=[client_tool("where", "Where.")]),
    ]
    async with served(connection, nats_url, agents) as client:
        done = await client.run("boss", "go", on_wait=answer)
        assert done.text == "boss: worker: in Rome"
        (waits,) = asked
        assert (waits.kind, waits.call.name, waits.agent) == ("caller", "where", "worker")
        assert waits.thread != done.thread

        @tool(effect="pure")
        def where(what: str, context: ToolContext) -> str:
            """Where."""
            return f"with {context.agent} in {context.thread != done.thread} for {context.request['user']}"

        # a function of the program of that name is it
        again = await client.run("boss", "go", tools=[where], context={"user": "ann"}, active_tools=("worker",))
        assert again.text == "boss: worker: with worker in True for ann"


async def test_what_the_one_who_is_asked_raises_comes_out_and_the_run_goes_on_waiting(
    connection: Connection, nats_url: str
) -> None:
    async def mistaken(waits: Waiting) -> Settling | None:
        raise LookupError("my own mistake")

    async with served(connection, nats_url, [Agent("boss", "Help.", tools=[pay])]) as client:
        with pytest.raises(LookupError, match="my own mistake"):
            await asyncio.wait_for(client.run("boss", "go", on_wait=mistaken), 10)
        running = client.stream("boss", "go", thread="t2", on_wait=mistaken)
        heard: list[str] = []
        with pytest.raises(LookupError):
            await _types(running, heard)
        assert heard[-1] == "approval.requested"
        call = ToolCall("k1", "pay", '{"what": "5"}')
        await client.settle("t2", Waiting("approval", "t2", f"{running.run}-1-t0", call).approve())
        told: list[str] = []
        await _types(client.attend("t2", running.run), told)
        assert told[-1] == "run.finished"


async def _types(frames: AsyncIterable[Frame], heard: list[str]) -> None:
    async for frame in frames:
        heard += [frame.type] if isinstance(frame, Committed) else []


async def test_a_message_that_joins_a_run_gets_that_runs_answer(connection: Connection, nats_url: str) -> None:
    gate, began = asyncio.Event(), asyncio.Event()

    @tool(effect="pure")
    async def dig(what: str) -> str:
        """Dig."""
        began.set()
        await gate.wait()
        return "dug"

    def hurried(call: ModelCall) -> Say:
        return using(call) if len(call.messages) < 3 else f"{call.messages[-2].content}, {call.messages[-1].content}"

    agents = [Agent("boss", "Help.", tools=[dig])]
    async with served(connection, nats_url, agents, ScriptedModel(hurried)) as client:
        first = client.stream("boss", "go", thread="t7")
        hearing = asyncio.create_task(_all(first))
        await began.wait()
        second = asyncio.create_task(client.run("boss", "and hurry", thread="t7", when_busy="steer"))
        third = client.stream("boss", "now", thread="t7", when_busy="steer")
        steering = asyncio.create_task(_all(third))
        async with asyncio.timeout(10):
            while await _taken_on(client, "t7") < 3:  # noqa: ASYNC110  the log is asked, and tells nobody of itself
                await asyncio.sleep(0.01)
        gate.set()
        await asyncio.gather(hearing, steering)
        answer = await second
        assert answer.text == first.answer().text
        assert (answer.run, answer.thread, answer.joined) == (first.run, "t7", True)
        assert not first.answer().joined
        with pytest.raises(Joined, match="took the message along") as told:
            third.answer()
        assert (told.value.thread, told.value.run) == ("t7", first.run)


async def _all(running: Running) -> None:
    async for _ in running:
        pass


async def _taken_on(client: Client, thread: str) -> int:
    """Count the commands that a thread has accepted."""
    events = await client.read_back("acme", thread, "thread", thread, 0)
    return sum(event.type == "command.accepted" for event in events)


class Person(BaseModel):
    """Who."""

    name: str
    age: int


async def test_a_stream_has_partial_objects_and_at_its_end_the_one_that_was_asked_for(
    connection: Connection, nats_url: str
) -> None:
    lines = iter(['{"name": "Ann", "age": 5}', '{"name": "Ann", "age": 5}', "I do not know", "nor now"])
    agents = [Agent("boss", "Help.")]
    async with served(connection, nats_url, agents, ScriptedModel(lambda _: next(lines))) as client:
        running = client.stream("boss", "who?", output_type=Person)
        *grown, last = [value async for value in running.partials()]
        assert grown
        assert all(isinstance(value, dict) for value in grown)
        assert last == running.answer().output == Person(name="Ann", age=5)
        plain = client.stream("boss", "who?")
        assert [value async for value in plain.partials()][-1] == {"name": "Ann", "age": 5}
        assert plain.answer().output is None
        wrong = client.stream("boss", "who?", output_type=Person)
        with pytest.raises(NoAnswer, match="the answer is no Person") as told:
            _ = [value async for value in wrong.partials()]
        assert told.value.problem.field == "output_type"
        assert wrong.finished is not None
        with pytest.raises(NoAnswer):
            await client.run("boss", "who?", output_type=Person, repairs=0)


async def test_an_answer_that_was_mended_counts_what_it_took_and_one_that_cannot_be_has_a_fallback(
    connection: Connection, nats_url: str
) -> None:
    lines = iter(["hm", "well", '{"name": "Ann", "age": 5}', "hm", '{"name": "Ann"}', "hm", '{"name": "Ann"}'])
    model = ScriptedModel(lambda _: next(lines), price=0.5)
    async with served(connection, nats_url, [Agent("boss", "Help.")], model) as client:
        answer = await client.run("boss", "who?", output_type=Person, repairs=2)
        assert (answer.output, answer.misfit) == (Person(name="Ann", age=5), "")
        # a prompt counts its messages: the instructions, and two more at each try
        assert answer.usage == Usage(prompt_tokens=2 + 4 + 6, completion_tokens=3)
        assert (answer.cost, answer.steps) == (1.5, 3)
        nobody = Person(name="nobody", age=0)
        other = await client.run("boss", "who?", output_type=Person, fallback=nobody)
        assert other.output is nobody
        assert other.misfit == "`age`: Field required"
        assert (other.text, other.steps, other.usage.completion_tokens) == ('{"name": "Ann"}', 2, 2)
        nothing = await client.run("boss", "who?", output_type=Person, repairs=0, fallback=None)
        assert (nothing.output, nothing.misfit[:17]) == (None, "JSON is malformed")
        with pytest.raises(NoAnswer, match="the answer is no Person"):
            await client.run("boss", "who?", output_type=Person, repairs=0)
        with pytest.raises(ValueError, match="fallback"):
            await client.run("boss", "who?", fallback=nobody)


class Thinking(ScriptedModel):
    """Thinks before it speaks."""

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Think, and say where."""
        await on_text(Piece(0, "Where is Ann?", "reasoning"))
        await on_text(Piece(0, "Rome"))
        return ModelAnswer("Rome", "stop", Usage(1, 1), reasoning="Where is Ann?")


async def test_what_a_model_thinks_is_heard_and_kept_with_its_answer(connection: Connection, nats_url: str) -> None:
    async with served(connection, nats_url, [Agent("boss", "Help.")], Thinking(using)) as client:
        assert (await client.run("boss", "where?")).reasoning == "Where is Ann?"
        running = client.stream("boss", "where?")
        assert "".join([piece async for piece in running.reasoning()]) == "Where is Ann?"
        assert running.answer().text == "Rome"


async def test_a_run_that_takes_too_long_is_ended(
    connection: Connection, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.client.SystemClock", FixedClock)  # the agents' clock
    async with served(connection, nats_url, [Agent("boss", "Help.", tools=[pay])]) as client:

        async def somebody_else(waits: Waiting) -> Settling | None:
            return None

        with pytest.raises(NoAnswer) as late:
            await client.run("boss", "go", on_wait=somebody_else, timeout_s=0.2)
        assert late.value.problem.kind == "timeout"
        for wrong in ({"timeout_s": 0}, {"timeout_s": -1}, {"timeout_s": float("nan")}, {"timeout_s": float("inf")},
                      {"timeout_s": 5, "deadline": 7}):  # fmt: skip
            with pytest.raises(ValueError, match="timeout_s"):
                client.stream("boss", "go", **wrong)
