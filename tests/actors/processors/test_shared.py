"""Working memory that the threads of a person share: written in one, shown in the next, and nobody else's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.agent.actor import AgentPerformer
from actors.agent.definition import Agent
from actors.errors import DefinitionError
from actors.memory.plan import Memory
from actors.processors.shared import SharedMemories, content_of, shared_thread, shared_working
from actors.testing import ScriptedModel
from bus.commands import send_command
from bus.connection import Connection
from bus.errors import Unavailable
from bus.recorder import Recorder
from bus.store import Store
from bus.streams import ensure_streams
from schemas.commands import Command, RunAgent
from schemas.memory import RenameThread
from schemas.messages import ToolCall
from schemas.runs import ModelReturned
from tests.actors.runtime.bench import Bench, answer_of, owning
from tests.actors.runtime.test_shard_waits import outcome_of

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(30)]


def asked(name: str, thread: str, text: str, resource: str) -> Command:
    return Command(name, "acme", "agent", thread, "run", RunAgent(agent="keeper", text=text, resource=resource))


def script(call: Any) -> Any:
    """Remember what it is told, once."""
    last = call.messages[-1]
    if last.role == "user" and "remember " in last.content:
        return ToolCall("k1", "update_working_memory", f'{{"content": "- name: {last.content.split()[-1]}"}}')
    return "fine"


async def test_what_one_thread_keeps_in_mind_the_next_one_of_the_same_person_is_shown(
    connection: Connection, nats_url: str, store: Store
) -> None:
    await ensure_streams(connection, shards=1)
    model = ScriptedModel(script)
    agent = Agent("keeper", "Help.", memory=Memory(working="- name:", scope="resource"))
    bench = Bench(connection, nats_url, model, agents=(agent,))

    async def opened() -> Store:
        return store

    runtime = bench.runtime("p1")
    performer = runtime.performers["agent"]
    assert isinstance(performer, AgentPerformer)
    performer._shared = SharedMemories(opened, lambda command: send_command(connection, command))
    recorder = Recorder(connection, store, "rec1")
    recording = asyncio.create_task(recorder.run())
    try:
        async with owning(runtime):
            assert await answer_of(bench, asked("c1", "t1", "remember Ann", "ann")) == "fine"
            for name, thread, resource in (("c2", "t2", "ann"), ("c3", "t3", "bob"), ("c4", "t4", "")):
                assert await answer_of(bench, asked(name, thread, "hello", resource)) == "fine"
    finally:
        recording.cancel()
        await asyncio.gather(recording, return_exceptions=True)
    shown = {call.thread: call.messages[-1].content for call in model.calls}
    assert shown["t2"] == "<working_memory>\n- name: Ann\n</working_memory>\n\nhello"
    for stranger in ("t3", "t4"):
        assert "Ann" not in shown[stranger]
        assert "<working_memory>\n- name:\n</working_memory>" in shown[stranger]
    held = await shared_working(store, "acme", "ann")
    assert content_of(held) == "- name: Ann"
    assert held is not None
    noted = [one for event in await bench.events(ModelReturned) for one in event.processed if one.found]
    assert noted[0].reason == f"{shared_thread('acme', 'ann')} {held.sequence}/{held.idx}"
    for thread in ("t1", "t2", "t3", "t4", shared_thread("acme", "ann")):
        await bench.verified(thread)


async def test_a_write_waits_for_no_record_that_is_away(connection: Connection, nats_url: str) -> None:
    await ensure_streams(connection, shards=1)
    agent = Agent("keeper", "Help.", memory=Memory(working="- name:", scope="resource"))
    bench = Bench(connection, nats_url, ScriptedModel(script), agents=(agent,))

    async def away() -> Store:
        raise Unavailable("Postgres is away")

    runtime = bench.runtime("p1")
    performer = runtime.performers["agent"]
    assert isinstance(performer, AgentPerformer)
    performer._shared = SharedMemories(away, lambda command: send_command(connection, command))
    async with owning(runtime):
        assert await answer_of(bench, asked("c1", "t1", "remember Ann", "ann")) == "fine"
        # what is asked of the thread that holds it comes after what was written into it
        shared = shared_thread("acme", "ann")
        rename = Command("c2", "acme", "agent", shared, "rename", RenameThread(title="Ann"))
        assert (await outcome_of(bench, rename)).problem is None
    written = [fact.thread for _, _, fact in await bench.facts() if fact.type == "working.written"]
    assert sorted(written) == sorted(["t1", shared])
    await bench.verified("t1")


def test_a_scope_that_is_none_is_refused() -> None:
    with pytest.raises(DefinitionError, match="scope='planet'"):
        Memory(working="- name:", scope="planet")  # type: ignore[arg-type]
