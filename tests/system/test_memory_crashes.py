"""`kill -9` of the process that runs agents, while it condenses: nothing is lost, and nothing happens twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from actors.models.nearby import offer_model
from actors.models.provider import ModelCall
from bus.connection import Connection
from infra.client import Client, connected
from infra.privacy import known_master
from schemas import codec
from tests.actors.memory.test_observing import Endless
from tests.system.conftest import UpProcess
from tests.system.test_waits import verified

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


async def test_what_is_being_condensed_at_a_kill_9_is_condensed_once_by_the_next_process(own_stack: UpProcess) -> None:
    async with reaching(own_stack) as (client, model):
        for text in ("I like cats", "and dogs"):
            await client.run("condenser", text, thread="condensed")
        await asyncio.wait_for(model.asked.wait(), 30)
        await kill_agents(own_stack)
        model.endless = ()
        observed = await recorded(client, "condensed", "memory.observed")
        assert (observed.first, observed.upto, observed.text) == (0, 2, "- she likes cats")
        asked = [call for call in model.calls if call.effect.endswith("-c")]
        assert [call.again for call in asked] == [False, True]
        assert (asked[0].effect, asked[0].messages) == (asked[1].effect, asked[1].messages)
        kinds = await verified(own_stack, "condensed")
        assert [kinds.count(kind) for kind in OF_CONDENSING] == [1, 1, 1]
        await client.run("condenser", "what do I like?", thread="condensed")
        (shown,) = [call for call in model.calls if call.messages[-1].content == "what do I like?"]
        assert "- she likes cats" in shown.messages[1].content


async def test_what_never_ends_is_given_up_after_a_kill_9_and_begun_anew_by_the_next_turn(own_stack: UpProcess) -> None:
    async with reaching(own_stack) as (client, model):
        for text in ("I like cats", "and dogs"):
            await client.run("hasty", text, thread="given-up")
        await asyncio.wait_for(model.asked.wait(), 30)
        await kill_agents(own_stack)
        ended = await recorded(client, "given-up", "condensing.ended")
        assert (ended.kind, ended.reason, ended.text) == ("timeout", "it took longer than 1 s", "")
        model.endless = ()
        await client.run("hasty", "and birds", thread="given-up")
        observed = await recorded(client, "given-up", "memory.observed")
        assert observed.first == 0
    kinds = await verified(own_stack, "given-up")
    assert [kinds.count(kind) for kind in OF_CONDENSING] == [2, 2, 1]
