"""Runs and agents that have to do with one another, on the whole stack, with processes that are killed in between."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actors.agent.definition import Agent
from actors.agent.delegation import child_thread
from actors.errors import NotConnected
from actors.models.nearby import offer_model
from actors.models.provider import ModelCall
from actors.testing import Say, ScriptedModel
from bus.connection import Connection
from infra.client import Client, connected
from infra.errors import SettlementRefused
from infra.privacy import known_master
from schemas.live import Committed
from schemas.messages import ToolCall
from tests.system.conftest import UpProcess, records, start
from tests.system.test_waits import heard, verified

INJECT = Path(__file__).parents[1] / "chaos" / "inject"

pytestmark = [pytest.mark.anyio, pytest.mark.deadline(150)]


def script(call: ModelCall) -> Say:
    """Do what the user's last message says, then tell what came of it."""
    last = call.messages[-1]
    tools = {"delegate": "worker", "dig": "dig", "bill me": "hand_over_to_billing"}
    name = tools.get(last.content)
    if last.role == "user" and name in [spec.name for spec in call.tools]:
        return ToolCall("k1", str(name), '{"message": "work"}' if name == "worker" else "{}")
    return f"{call.agent} says: {last.content}"


@pytest.fixture
def armed(system_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UpProcess]:
    """A stack whose agents process can be told where to die, and whose tools leave a witness."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(INJECT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("OSTINATO_CHAOS_FAILPOINT", str(tmp_path / "failpoint"))
    monkeypatch.setenv("OSTINATO_TEST_WITNESS", str(tmp_path / "witness"))
    up = start(system_folder / tmp_path.name)
    yield up
    assert up.stop() == 0


@asynccontextmanager
async def reaching(up: UpProcess) -> AsyncIterator[tuple[Client, ScriptedModel]]:
    """A client of the stack, and the model that its agents ask."""
    model = ScriptedModel(script)
    async with await Connection.open(up.nats_url, "scripted") as connection:
        await offer_model(connection, "scripted", "1.0.0", model)
        master = await asyncio.to_thread(known_master, up.data)
        async with connected(up.nats_url, up.postgres_url, master=master) as client:
            yield client, model


async def test_runs_among_others_survive_kill_9(armed: UpProcess, tmp_path: Path) -> None:
    async with reaching(armed) as (client, model):
        await handed_over(armed)
        await joined(armed, client, model)
        await disowned(armed, client, model, tmp_path / "failpoint")
        await dug(armed, client, tmp_path)
    with pytest.raises(NotConnected, match="connect"):
        await Agent("front", "").run("hello")


async def handed_over(up: UpProcess) -> None:
    """An agent runs itself on the stack around, and hands its thread to another."""
    front = Agent("front", "")
    first = await front.run("bill me", thread="handed")
    assert first.text == "billing says: The conversation is billing's from here on."
    os.kill(await asyncio.to_thread(up.pid, "agents-0"), signal.SIGKILL)
    running = front.stream("thanks", thread="handed")
    await heard(running)
    assert running.problem is None
    assert running.finished is not None
    assert running.finished.text == "billing says: thanks"
    assert "run.handed_over" in await verified(up, "handed")


async def joined(up: UpProcess, client: Client, model: ScriptedModel) -> None:
    """What is said while a run answers is answered by that run, also when its process is killed."""
    model.hold = asyncio.Event()
    running = client.stream("worker", "one", thread="joined")
    hearing = asyncio.create_task(heard(running))
    await asked(model, "joined")
    steering = client.stream("worker", "two", thread="joined", when_busy="steer")
    async for frame in steering:
        if isinstance(frame, Committed) and frame.type == "run.queued":
            os.kill(await asyncio.to_thread(up.pid, "agents-0"), signal.SIGKILL)
            model.hold.set()
    model.hold = None
    await hearing
    assert steering.joined == running.run
    assert running.finished is not None
    assert running.finished.text == "worker says: two"
    assert (await verified(up, "joined")).count("run.joined") == 1


async def disowned(up: UpProcess, client: Client, model: ScriptedModel, failpoint: Path) -> None:
    """A process that dies between an abort and passing it on leaves that to the next."""
    model.hold = asyncio.Event()
    running = client.stream("boss", "delegate", thread="disowned", on_wait=None)
    hearing = asyncio.create_task(heard(running))
    await asked(model, "s")
    await asyncio.to_thread(failpoint.write_text, "K13 1", encoding="utf-8")
    before = await asyncio.to_thread(up.pid, "agents-0")
    await client.abort("disowned")
    await hearing
    assert running.problem is not None
    assert running.problem.kind == "aborted"
    child = child_thread("default", "disowned", f"{running.run}-1-t0")
    for _ in range(1000):
        if await ended(client, child):
            break
        await asyncio.sleep(0.02)
    model.hold.set()
    model.hold = None
    assert not await asyncio.to_thread(failpoint.exists)
    assert await asyncio.to_thread(up.pid, "agents-0") != before
    assert (await verified(up, "disowned"))[-3:] == ["child.disowned", "run.failed", "child.ended"]
    assert (await verified(up, child))[-1] == "run.failed"


async def dug(up: UpProcess, client: Client, folder: Path) -> None:
    """A tool in the background is begun again after `kill -9`, and its thread is told once; another is cancelled."""
    first = await client.run("boss", "dig", thread="dug")
    await client.run("boss", "dig", thread="dug")
    one, other = await going(client, 2)
    tasks = records(await asyncio.to_thread(up.cli, "tasks", "list", "dug", "--json"))
    assert [(task["task"], task["tool"], task["agent"]) for task in tasks] == [
        (one, "dig", "boss"),
        (other, "dig", "boss"),
    ]
    unnamed = await asyncio.to_thread(up.cli, "tasks", "cancel", "dug")
    assert (unnamed.returncode, "name the task" in unnamed.stderr) == (1, True)
    done = await asyncio.to_thread(up.cli, "tasks", "cancel", "dug", other, "--reason", "no need")
    assert done.returncode == 0, done.stderr
    assert (await asyncio.to_thread(up.cli, "tasks", "cancel", "dug", other)).returncode == 1
    with pytest.raises(SettlementRefused):
        await client.cancel("dug", other)
    os.kill(await asyncio.to_thread(up.pid, "agents-0"), signal.SIGKILL)
    await asyncio.to_thread((folder / "witness.go").touch)
    for _ in range(1000):
        if not await client.tasks("dug"):
            break
        await asyncio.sleep(0.02)
    last = await client.run("boss", "well?", thread="dug")
    assert one in first.text
    assert last.text == "boss says: well?"
    kinds = await verified(up, "dug")
    assert [kinds.count(kind) for kind in ("task.started", "task.cancelled", "task.ended")] == [2, 1, 1]
    assert kinds.count("run.finished") == 4


async def going(client: Client, count: int) -> list[str]:
    """Wait until so many tasks are recorded; give their names."""
    for _ in range(1000):
        if len(tasks := await client.tasks("dug")) == count:
            return [task.effect for task in tasks]
        await asyncio.sleep(0.02)
    raise AssertionError("nothing goes on")


async def ended(client: Client, thread: str) -> bool:
    events = await (await client.store()).events_of_thread("default", thread)
    return bool(events) and events[-1].fact.type == "run.failed"


async def asked(model: ScriptedModel, thread: str) -> None:
    """Wait until the worker's model is asked in a thread whose name begins so."""
    for _ in range(1000):
        if [call for call in model.calls if call.agent == "worker" and call.thread.startswith(thread)]:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the worker's model is not asked")
