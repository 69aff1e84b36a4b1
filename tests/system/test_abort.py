"""A run that is aborted is computed no further: neither by its agent nor by the engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from nats.aio.client import Client

from tests.system.conftest import UpProcess, records, start
from tests.system.test_crashes import Ear, bounded, command
from tests.system.test_record import wait_until_recorded

pytestmark = pytest.mark.servers


@pytest.fixture
def own_stack(system_folder: Path, tmp_path: Path) -> Iterator[UpProcess]:
    """A stack whose worker may stand still."""
    up = start(system_folder / tmp_path.name)
    yield up
    assert up.stop() == 0


async def running(up: UpProcess) -> str:
    """Give the line of how many requests the engine computes."""
    async with httpx.AsyncClient() as client:
        lines = (await client.get(f"{up.url}/metrics", timeout=20)).text.splitlines()
    return next((line for line in lines if line.startswith("vllm:num_requests_running{")), "")


def test_the_engine_computes_no_more_of_what_was_aborted_than_was_under_way(own_stack: UpProcess) -> None:
    async def scenario(client: Client) -> Ear:
        worker = own_stack.pid("worker-0")
        os.kill(worker, signal.SIGSTOP)  # the answer cannot end before the abort
        try:
            ear = await command(client, "gone", "gone-1", agent="rambler", text="Say something long.")
            await ear.until("model.called")
            while not (await running(own_stack)).endswith(" 1.0"):
                pass  # in the end `bounded` gives up
            body = {"id": "stop-1", "source": "test", "type": "agent.abort", "data": {"reason": "enough"}}
            await client.jetstream().publish("in.default.agent.gone.abort", json.dumps(body).encode())
            await ear.until("run.failed")
        finally:
            os.kill(worker, signal.SIGCONT)
        after = await command(client, "stays", "stays-1", agent="rambler", text="Say something long.")
        await after.until("run.finished")
        return ear

    ear = asyncio.run(bounded(own_stack, scenario))
    wait_until_recorded(own_stack)
    steps = records(own_stack.cli("replay", "engine", "--last", "100000", "--json"))
    (request,) = {name for step in steps for name in step["requests"] if name.startswith("default/gone/")}
    computed = [step["step"] for step in steps if request in step["requests"]]
    (left,) = [step["step"] for step in steps if request in step["gone"]]
    assert computed[-1] < left
    assert max(step["step"] for step in steps) > left, "steps came after it, and none was its"
    other = [step for step in steps if any(name.startswith("default/stays/") for name in step["requests"])]
    assert len(computed) < len(other), "it was ended before its end"
    assert "delta" not in ear.types
    shown = own_stack.cli("replay", "show", "gone").stdout
    assert "enough" in shown
    assert own_stack.cli("replay", "verify", "gone").returncode == 0
    *_, verified = records(own_stack.cli("replay", "engine", "--last", "--verify", "--json"))
    assert (verified["ok"], verified["running"], verified["waiting"]) == (True, 0, 0)
