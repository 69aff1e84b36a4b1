"""A tool that is a process of somebody else's, on the whole stack, with processes that are killed in between."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from actors.models.nearby import offer_model
from actors.models.provider import ModelCall
from actors.testing import Say, ScriptedModel
from bus.connection import Connection
from infra.client import Client, connected
from infra.privacy import known_master
from schemas.live import Committed, Frame, Progress
from schemas.messages import ToolCall
from tests.system.conftest import UpProcess, start
from tests.system.test_waits import verified, waiting_in

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(150)]

AGENTS = """
from ostinato import Agent, Services

travel = Agent("travel", "Book.", "local/scripted", tools=[Services("book")])
"""


def script(call: ModelCall) -> Say:
    last = call.messages[-1]
    return ToolCall("k1", "book", "{}") if last.role == "user" else f"well: {last.content}"


@pytest.fixture
def travelling(system_folder: Path, tmp_path: Path) -> Iterator[UpProcess]:
    (system_folder / "travel.py").write_text(AGENTS, encoding="utf-8")
    up = start(system_folder / tmp_path.name, "--agents", str(system_folder / "travel.py"))
    yield up
    assert up.stop() == 0


@contextmanager
def booking(up: UpProcess) -> Iterator[None]:
    """The service, which is killed in the end."""
    command = [sys.executable, "-m", "tests.system.booking", up.nats_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "serving\n"
            yield
        finally:
            process.kill()


@asynccontextmanager
async def reaching(up: UpProcess) -> AsyncIterator[Client]:
    """A client, and the model that the agent asks."""
    async with await Connection.open(up.nats_url, "scripted") as connection:
        await offer_model(connection, "scripted", "1.0.0", ScriptedModel(script))
        master = await asyncio.to_thread(known_master, up.data)
        async with connected(up.nats_url, up.postgres_url, master=master) as client:
            yield client


async def nobody(_: object) -> None:
    """Leave it to others."""


def is_suspended(frame: Frame) -> bool:
    return isinstance(frame, Committed) and frame.type == "tool.suspended"


async def test_a_service_waits_for_data_while_all_who_were_there_are_killed(travelling: UpProcess) -> None:
    async with reaching(travelling) as client:
        running = client.stream("travel", "to Rome", thread="booked", on_wait=nobody)
        with booking(travelling):
            async for frame in running:
                if is_suspended(frame):
                    break
        os.kill(await asyncio.to_thread(travelling.pid, "agents-0"), signal.SIGKILL)
        with booking(travelling):
            waits = await waiting_in(client, "booked")
            assert (waits.payload, waits.schema) == ({"price": 40}, {"type": "boolean"})
            frames = list[Frame]()
            async for frame in client.attend("booked", running.run):
                frames.append(frame)
                if is_suspended(frame):
                    await client.settle("booked", waits.resume(True))
    assert [frame.data for frame in frames if isinstance(frame, Progress)] == [{"booked": "the seat"}]
    assert isinstance(frames[-1], Committed)
    assert b"well: booked" in bytes(frames[-1].data)
    kinds = await verified(travelling, "booked")
    assert [kinds.count(kind) for kind in ("tool.suspended", "tool.continued", "tool.returned")] == [1, 1, 1]
