"""Calls of services, MCP servers and models that stand beside a turn, cut off by `kill -9`: none is made twice unasked,
none is lost, and what nobody can know is said not to be known."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.micro import add_service
from nats.micro.request import Request

from actors.models.nearby import offer_model
from bus.connection import Connection
from infra.client import Client, connected
from infra.privacy import known_master
from infra.services.process import command_line
from tests.actors.memory.test_observing import Endless
from tests.chaos.neighbour import BACK, FOREIGN, WANTS, script
from tests.chaos.processes import descendants
from tests.system.conftest import UpProcess, start
from tests.system.test_waits import heard, verified

pytestmark = [pytest.mark.servers, pytest.mark.anyio, pytest.mark.deadline(150)]

ONCE, AGAIN = "post", "fetch"


@pytest.fixture
def reaching(system_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UpProcess]:
    """A stack whose agents reach out, to break."""
    monkeypatch.setenv("OSTINATO_CHAOS_WITNESS", str(tmp_path / "witness"))
    up = start(system_folder / tmp_path.name, "--agents", str(Path(__file__).parent / "reacher.py"))
    yield up
    assert up.stop() == 0


@asynccontextmanager
async def reached(up: UpProcess, *endless: str) -> AsyncIterator[tuple[Client, Endless]]:
    """A client of the stack, and the model that its agents ask, which does not end some calls."""
    model = Endless(script, endless=endless)
    async with await Connection.open(up.nats_url, "scripted") as connection:
        await offer_model(connection, "scripted", "1.0.0", model)
        master = await asyncio.to_thread(known_master, up.data)
        async with connected(up.nats_url, up.postgres_url, master=master) as client:
            yield client, model


class Held:
    """Tools of another process, in plain nats-py: they take calls, and answer only when they may."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.called = asyncio.Event()
        self.may = asyncio.Event()

    @asynccontextmanager
    async def served(self, url: str) -> AsyncIterator[nats.NATS]:
        client = await nats.connect(url)
        for name, effect, timeout_s in ((ONCE, "once", "3"), (AGAIN, "idempotent", "60")):
            about = {"parameters": json.dumps(WANTS), "effect": effect, "timeout_s": timeout_s}
            service = await add_service(
                client, name=f"tool-{name}", version="1.0.0", description="Do it.", metadata=about
            )
            await service.add_endpoint(name="call", subject=f"rpc.tool-{name}.call", handler=self.take)
        await client.flush()
        try:
            yield client
        finally:
            await client.close()

    async def take(self, request: Request) -> None:
        self.keys.append((request.headers or {})["Ostinato-Key"])
        self.called.set()
        await self.may.wait()
        await request.respond(b"done")


async def kill_agents(up: UpProcess) -> None:
    os.kill(await asyncio.to_thread(up.pid, "agents-0"), signal.SIGKILL)


async def begun(client: Client, agent: str, text: str, thread: str) -> tuple[Any, asyncio.Task[list[Any]]]:
    running = client.stream(agent, text, thread=thread)
    return running, asyncio.create_task(heard(running))


async def test_calls_of_services_and_mcp_servers_that_are_cut_off(reaching: UpProcess, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    async with reached(reaching) as (client, _model):
        await services_called_by_a_process_that_dies(reaching, client)
        await a_service_that_dies(reaching, client)
        witness.with_suffix(".hold").touch()
        await an_mcp_server_called_by_a_process_that_dies(reaching, client, witness)
        await an_mcp_server_that_dies(reaching, client, witness)


async def services_called_by_a_process_that_dies(up: UpProcess, client: Client) -> None:
    held = Held()
    async with held.served(up.nats_url):
        once, hearing = await begun(client, "poster", "use post a", "once")
        await asyncio.wait_for(held.called.wait(), 30)
        held.called.clear()
        again, hearing_again = await begun(client, "poster", "use fetch b", "again")
        await asyncio.wait_for(held.called.wait(), 30)
        await kill_agents(up)
        await hearing
        held.may.set()
        await hearing_again
    assert "not known whether 'post' took effect; it was not run again" in once.finished.text
    assert again.finished.text == "poster says done"
    calls = (("once", once), ("again", again), ("again", again))
    assert held.keys == [f"default/{name}/{run.run}-1-t0" for name, run in calls]
    assert (await verified(up, "once")).count("tool.indeterminate") == 1
    kinds = await verified(up, "again")
    assert [kinds.count(kind) for kind in ("tool.called", "tool.resumed", "tool.returned")] == [1, 1, 1]


async def a_service_that_dies(up: UpProcess, client: Client) -> None:
    held = Held()
    async with held.served(up.nats_url) as service:
        once, hearing = await begun(client, "poster", "use post a", "gone")
        await asyncio.wait_for(held.called.wait(), 30)
        await service.close()
        await hearing
    assert "not known whether 'post' took effect" in once.finished.text
    assert len(held.keys) == 1
    assert (await verified(up, "gone")).count("tool.indeterminate") == 1


async def an_mcp_server_called_by_a_process_that_dies(up: UpProcess, client: Client, witness: Path) -> None:
    running, hearing = await begun(client, "stamper", "use stamp a", "stamped")
    await stamped(witness, "a")
    (server,) = await mcp_servers(up)
    await kill_agents(up)
    await hearing
    assert "not known whether 'stamp' took effect; it was not run again" in running.finished.text
    assert (await verified(up, "stamped")).count("tool.indeterminate") == 1
    # with its input gone, the server of the process that died has ended too
    assert server not in await mcp_servers(up)
    assert len(await lines(witness)) == 1


async def an_mcp_server_that_dies(up: UpProcess, client: Client, witness: Path) -> None:
    running, hearing = await begun(client, "stamper", "use stamp b", "torn")
    await stamped(witness, "b")
    (server,) = await mcp_servers(up)
    os.kill(server, signal.SIGKILL)
    await hearing
    assert "not known whether 'stamp' took effect" in running.finished.text
    assert (await verified(up, "torn")).count("tool.indeterminate") == 1
    witness.with_suffix(".hold").unlink()
    # the next run has it started again
    assert (await client.run("stamper", "use stamp c")).text == "stamper says c done"
    assert [line.split()[-1] for line in await lines(witness)] == ["a", "b", "c"]


async def lines(witness: Path) -> list[str]:
    if not await asyncio.to_thread(witness.exists):
        return []
    return (await asyncio.to_thread(witness.read_text, encoding="utf-8")).splitlines()


async def stamped(witness: Path, what: str) -> None:
    """Wait until the MCP server has taken a call."""
    for _ in range(1500):
        if any(line.endswith(f" {what}") for line in await lines(witness)):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the MCP server is not called")


async def mcp_servers(up: UpProcess) -> list[int]:
    """List the MCP servers that the stack has started."""
    found = await asyncio.to_thread(descendants, up.process.pid)
    return [pid for pid in found if "tests.chaos.stamps" in await asyncio.to_thread(command_line, pid)]


async def test_titles_and_translations_that_are_cut_off_are_made_by_the_next_process(reaching: UpProcess) -> None:
    async with reached(reaching, ".title") as (client, model):
        await a_title(reaching, client, model)
        for which, thread in (("back", "outwards"), ("in", "inwards")):
            await a_translation(reaching, client, model, which, thread)


async def a_title(up: UpProcess, client: Client, model: Endless) -> None:
    await client.run("titled", "hello", thread="named")
    await asyncio.wait_for(model.asked.wait(), 30)
    await kill_agents(up)
    model.endless = ()
    # a title is beside the turns: the next one finds that there is none
    await client.run("titled", "hello again", thread="named")
    for _ in range(1500):
        events = await (await client.store()).events_of_thread("default", "named")
        if any(event.fact.type == "thread.renamed" for event in events):
            break
        await asyncio.sleep(0.02)
    asked = [call for call in model.calls if call.effect.endswith(".title")]
    assert len(asked) == 2
    assert asked[0].messages == asked[1].messages
    await client.run("titled", "and again", thread="named")
    assert (await verified(up, "named")).count("thread.renamed") == 1
    assert len([call for call in model.calls if call.effect.endswith(".title")]) == 2


async def a_translation(up: UpProcess, client: Client, model: Endless, which: str, thread: str) -> None:
    said = f"{FOREIGN}{thread}"
    model.asked.clear()
    text = blake2b(said.encode(), digest_size=16).hexdigest()[:8]
    model.endless = (f".translator-{which}" if which == "back" else f".translator-in-{text}",)
    running, hearing = await begun(client, "linguist", said, thread)
    await asyncio.wait_for(model.asked.wait(), 30)
    await kill_agents(up)
    model.endless = ()
    await hearing
    assert running.finished.text == f"{BACK}linguist says {thread}"
    kinds = await verified(up, thread)
    assert [kinds.count(kind) for kind in ("message.added", "model.called", "model.returned")] == [1, 1, 1]
    shown = [call for call in model.calls if call.thread == thread and "." not in call.effect.rpartition("-m")[2]]
    assert {call.messages[-1].content for call in shown} == {thread}
