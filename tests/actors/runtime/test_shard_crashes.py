"""An owner that dies in the middle of what an agent does beside tools and answers, and the one that follows it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from actors.agent.definition import Agent
from actors.delegates import handoff
from actors.memory.plan import Memory
from actors.models.provider import ModelCall
from actors.processors.judged import moderation
from actors.testing import Say, ScriptedModel
from bus.commands import send_command
from bus.connection import Connection
from bus.streams import ensure_streams
from schemas.delegation import RunHandedOver
from schemas.memory import WorkingWritten
from schemas.messages import ToolCall
from schemas.runs import ModelReturned, RunFinished
from tests.actors.runtime.bench import Bench, answer_of, ends, hearing, owning, run, until

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(40)]


@dataclass
class Stopping(ScriptedModel):
    """A scripted model that does not answer the calls that fit, and says when one is there."""

    stops: str = ""
    """What ends the effects of those calls; empty is none."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, call: ModelCall, on_text: object) -> object:  # type: ignore[override]
        """Answer, or never."""
        if self.stops and call.effect.endswith(self.stops):
            self.calls.append(call)
            self.asked.set()
            await asyncio.Event().wait()
        return await super().call(call, on_text)  # type: ignore[arg-type]


def script(call: ModelCall) -> Say:
    """Judge well, hand over, note a name, or repeat."""
    last, tools = call.messages[-1], [spec.name for spec in call.tools]
    if ".moderation" in call.effect:
        return "none"
    if last.role == "user" and last.content == "bill me" and tools:
        return ToolCall("k1", tools[0], "{}")
    if last.role == "user" and last.content.endswith("I am Ann") and tools:
        return ToolCall("k2", tools[0], '{"content": "- name: Ann"}')
    return f"{call.agent}: {last.content}"


async def benched(connection: Connection, url: str, *agents: Agent) -> tuple[Bench, Stopping]:
    await ensure_streams(connection, 1)
    model = Stopping(script)
    return Bench(connection, url, model, agents=agents), model


async def crashed(bench: Bench, model: Stopping, stops: str, text: str, agent: str) -> None:
    """Have the owner die while a call is under way, and the next one finish."""
    model.stops = stops
    async with hearing(bench, "run.c1") as watcher:
        async with owning(bench.runtime("p1")):
            await send_command(bench.connection, run("c1", text, agent=agent))
            await asyncio.wait_for(model.asked.wait(), 10)
        model.stops = ""
        async with owning(bench.runtime("p2")):
            await until(watcher, ends)


async def test_a_thread_is_handed_over_once_though_its_owner_dies_while_the_other_agent_answers(
    connection: Connection, nats_url: str
) -> None:
    front = Agent("front", "Greet.", tools=[handoff("billing", "For invoices.")])
    bench, model = await benched(connection, nats_url, front, Agent("billing", "Bill."))
    await crashed(bench, model, "c1-2-m", "bill me", "front")
    (handed,) = await bench.events(RunHandedOver)
    (finished,) = await bench.events(RunFinished)
    assert (handed.agent, finished.text.partition(":")[0]) == ("billing", "billing")
    assert [call.agent for call in model.calls] == ["front", "billing", "billing"]
    await bench.verified("t1")


async def test_what_was_remembered_before_the_owner_died_is_remembered_once(
    connection: Connection, nats_url: str
) -> None:
    keeper = Agent("keeper", "Remember.", memory=Memory(working="- name:"))
    bench, model = await benched(connection, nats_url, keeper)
    await crashed(bench, model, "c1-2-m", "I am Ann", "keeper")
    assert [event.content for event in await bench.events(WorkingWritten)] == ["- name: Ann"]
    async with owning(bench.runtime("p3")):
        await answer_of(bench, run("c2", "who am I?", agent="keeper"))
    assert "- name: Ann" in str([message.content for message in model.calls[-1].messages])
    await bench.verified("t1")


async def test_a_judge_is_asked_again_and_nothing_it_did_not_pass_is_in_the_log(
    connection: Connection, nats_url: str
) -> None:
    guarded = Agent("guarded", "Be good.", processors=(moderation(),))
    bench, model = await benched(connection, nats_url, guarded)
    await crashed(bench, model, "moderation-result", "hello", "guarded")
    judged = [call.effect for call in model.calls if "moderation" in call.effect]
    assert len(judged) > len(set(judged))
    (returned,) = await bench.events(ModelReturned)
    assert returned.text == "guarded: hello"
    assert len(await bench.events(RunFinished)) == 1
    await bench.verified("t1")
