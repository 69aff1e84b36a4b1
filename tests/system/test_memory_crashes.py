"""`kill -9` of the process that runs agents, as it condenses, recalls or makes vectors: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from actors.models.nearby import offer_model
from actors.models.provider import ModelCall
from bus.connection import Connection
from infra.client import Client, connected
from infra.privacy import known_master
from schemas import codec
from schemas.recollections import Recalled
from tests.actors.memory.test_observing import Endless
from tests.system.conftest import UpProcess, records, start
from tests.system.test_waits import heard, verified

pytestmark = [pytest.mark.servers, pytest.mark.anyio, pytest.mark.deadline(150)]

OF_CONDENSING = ("condensing.begun", "condensing.ended", "memory.observed")


def script(call: ModelCall) -> str:
    return "- she likes cats" if call.effect.endswith("-c") else f"heard: {call.messages[-1].content}"


@asynccontextmanager
async def reaching(up: UpProcess) -> AsyncIterator[tuple[Client, Endless]]:
    """A client of the stack, and the model that its agents ask, which never ends to condense."""
    model = Endless(script, endless=("-c",))
    async with await Connection.open(up.nats_url, "scripted") as connection:
        await offer_model(connection, "scripted", "1.0.0", model)
        master = await asyncio.to_thread(known_master, up.data)
        async with connected(up.nats_url, up.postgres_url, master=master) as client:
            yield client, model


@pytest.fixture(scope="module")
def breakable(system_folder: Path) -> Iterator[UpProcess]:
    """A stack whose agents are killed, and come back."""
    up = start(system_folder / "memory-crashes")
    yield up
    assert up.stop() == 0


@pytest.fixture
def dwelling(system_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UpProcess]:
    """A stack whose embedder waits for a word, and tells when."""
    monkeypatch.setenv("OSTINATO_TEST_WITNESS", str(tmp_path / "witness"))
    up = start(system_folder / tmp_path.name, "--agents", str(Path(__file__).parent / "finder.py"))
    yield up
    assert up.stop() == 0


async def dwells(witness: Path, times: int) -> None:
    """Wait until the embedder was asked so often about what it stays with."""
    for _ in range(1500):
        if (
            await asyncio.to_thread(witness.exists)
            and (await asyncio.to_thread(witness.read_text)).count("\n") >= times
        ):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the embedder was not asked")


async def recalls(client: Client, text: str, count: int) -> list[Recalled]:
    """Wait until so much is found that is near to a text."""
    for _ in range(1500):
        found = await client.memory.recall(text, scope="tenant", count=50, embedder="dwelling")
        if len(found) >= count:
            return list(found)
        await asyncio.sleep(0.02)
    raise AssertionError(f"{len(found)} are found")


async def kill_agents(up: UpProcess) -> None:
    os.kill(await asyncio.to_thread(up.pid, "agents-0"), signal.SIGKILL)


async def recorded(client: Client, thread: str, wanted: str) -> Any:
    """Wait until there is such an event, and give the last of them."""
    for _ in range(1500):
        events = await (await client.store()).events_of_thread("default", thread)
        found = [event for event in events if event.fact.type == wanted]
        if found:
            return codec.event_of(found[-1].fact)
        await asyncio.sleep(0.02)
    raise AssertionError(f"there is no {wanted} in {[event.fact.type for event in events]}")


async def test_what_is_being_condensed_at_a_kill_9_is_condensed_once_by_the_next_process(breakable: UpProcess) -> None:
    async with reaching(breakable) as (client, model):
        for text in ("I like cats", "and dogs"):
            await client.run("condenser", text, thread="condensed")
        await asyncio.wait_for(model.asked.wait(), 30)
        await kill_agents(breakable)
        model.endless = ()
        observed = await recorded(client, "condensed", "memory.observed")
        assert (observed.first, observed.upto, observed.text) == (0, 2, "- she likes cats")
        asked = [call for call in model.calls if call.effect.endswith("-c")]
        assert [call.again for call in asked] == [False, True]
        assert (asked[0].effect, asked[0].messages) == (asked[1].effect, asked[1].messages)
        kinds = await verified(breakable, "condensed")
        assert [kinds.count(kind) for kind in OF_CONDENSING] == [1, 1, 1]
        await client.run("condenser", "what do I like?", thread="condensed")
        (shown,) = [call for call in model.calls if call.messages[-1].content == "what do I like?"]
        assert "- she likes cats" in shown.messages[1].content


async def test_what_never_ends_is_given_up_after_a_kill_9_and_begun_anew_by_the_next_turn(breakable: UpProcess) -> None:
    async with reaching(breakable) as (client, model):
        for text in ("I like cats", "and dogs"):
            await client.run("hasty", text, thread="given-up")
        await asyncio.wait_for(model.asked.wait(), 30)
        await kill_agents(breakable)
        ended = await recorded(client, "given-up", "condensing.ended")
        assert (ended.kind, ended.reason, ended.text) == ("timeout", "it took longer than 1 s", "")
        model.endless = ()
        await client.run("hasty", "and birds", thread="given-up")
        observed = await recorded(client, "given-up", "memory.observed")
        assert observed.first == 0
    kinds = await verified(breakable, "given-up")
    assert [kinds.count(kind) for kind in OF_CONDENSING] == [2, 2, 1]


async def test_a_kill_9_while_it_is_recalled_and_vectors_are_made_loses_and_doubles_nothing(
    dwelling: UpProcess, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    async with reaching(dwelling) as (client, model):
        await client.run("finder", "My cat is called Mitzi.", thread="first")
        assert len(await recalls(client, "Mitzi", 2)) == 2
        running = client.stream("finder", "dwell on how my cat is called", thread="second")
        hearing = asyncio.create_task(heard(running))
        # once to recall, once to be indexed
        await dwells(witness, 2)
        await kill_agents(dwelling)
        await asyncio.to_thread(witness.with_suffix(".go").touch)
        await hearing
        assert running.finished is not None
        (asked,) = [call for call in model.calls if call.thread == "second"]
        assert "<recalled>" in asked.messages[-1].content
        assert "user: My cat is called Mitzi." in asked.messages[-1].content
        found = await recalls(client, "dwell on how my cat is called", 4)
        assert len({one.place for one in found}) == len(found) == 4
    kinds = await verified(dwelling, "second")
    assert [kinds.count(kind) for kind in ("message.added", "model.called", "run.finished")] == [1, 1, 1]


async def test_what_the_embedder_refuses_is_told_and_holds_up_nothing_also_after_a_kill_9(dwelling: UpProcess) -> None:
    async with reaching(dwelling) as (client, _model):
        await client.run("finder", "This is indigestible.", thread="refused")
        await kill_agents(dwelling)
        await client.run("finder", "I cycle on Tuesdays.", thread="taken")
        assert "I cycle on Tuesdays." in {one.content for one in await recalls(client, "Tuesdays", 2)}
        async with httpx.AsyncClient(base_url=dwelling.url) as api:
            told = (await api.get("/api/recall/unindexed", params={"limit": 9})).json()["data"]
            assert {(one["thread"], one["embedder"]) for one in told} == {("refused", "dwelling")}
            again = await api.post("/api/recall/unindexed/retry")
            assert again.json() == {"count": len(told)}
            assert (await api.get("/api/recall/unindexed", params={"limit": 0})).status_code == 400
        assert await client.memory.reindex() == len(told)
    listed = records(await asyncio.to_thread(dwelling.cli, "log", "unindexed", "--json"))
    assert {(one["place"], one["thread"]) for one in listed} == {(one["place"], "refused") for one in told}
    done = await asyncio.to_thread(dwelling.cli, "log", "unindexed", "--again", "--tenant", "nobody")
    assert (done.returncode, done.stdout.split()[0]) == (0, "0")
    shown = await asyncio.to_thread(dwelling.cli, "log", "unindexed")
    assert "it broke (ValueError)" in shown.stdout
