"""kill -9 in mid-answer: the conversation completes by itself, nothing is said or done twice.

"Mid-answer" is made certain by stopping (SIGSTOP) the process that the answer waits for, never by timing.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import nats
import pytest
from nats.aio.client import Client

from infra.bridge.aisdk.stored import GrowingMessage
from tests.system.conftest import UpProcess, start

pytestmark = pytest.mark.servers

RECOVERY_S = 60.0

T = TypeVar("T")


@pytest.fixture(scope="module")
def written(system_folder: Path) -> Iterator[Path]:
    """The file that the counting tool writes, outside the system."""
    path = system_folder / "crashes-witness"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OSTINATO_TEST_WITNESS", str(path))
        yield path


@pytest.fixture
def witness(written: Path) -> Path:
    """The same, empty."""
    written.write_bytes(b"")
    return written


@pytest.fixture(scope="module")
def breakable(written: Path, system_folder: Path) -> Iterator[UpProcess]:
    """A stack whose processes are killed, and come back."""
    up = start(system_folder / "crashes")
    yield up
    assert up.stop() == 0


class Ear:
    """Hears one run's frames, in order."""

    def __init__(self, client: Client, subscription: Any) -> None:
        self._client = client
        self._subscription = subscription
        self._known = set[str]()
        self.types: list[str] = []
        self.text = ""

    async def until(self, wanted: str) -> dict[str, Any]:
        """Listen until a frame of that type (`delta` for a piece of text)."""
        while True:
            try:
                message = await self._subscription.next_msg(RECOVERY_S / 2)
            except nats.errors.TimeoutError as error:
                raise AssertionError(f"heard nothing of {wanted} after {self.types}") from error
            frame: dict[str, Any] = json.loads(message.data)
            if frame.get("id") in self._known:
                continue  # the process that told it first had ended
            self._known |= {frame["id"]} if "id" in frame else set()
            kind = frame.get("type", frame["frame"])
            self.types.append(kind)
            if kind == "delta":
                self.text = self.text[: frame["offset"]] + frame["text"]
            if kind == wanted:
                return frame


async def command(client: Client, thread: str, identity: str, **data: object) -> Ear:
    subscription = await client.subscribe(f"live.default.run.{identity}")
    await client.flush()
    body = {"specversion": "1.0", "id": identity, "source": "test", "type": "agent.run", "data": data}
    await client.jetstream().publish(f"in.default.agent.{thread}.run", json.dumps(body).encode())
    return Ear(client, subscription)


async def bounded(up: UpProcess, scenario: Callable[[Client], Awaitable[T]]) -> T:
    """Play a scenario through, in bounded time."""
    client = await nats.connect(up.nats_url)
    try:
        async with asyncio.timeout(RECOVERY_S):
            return await scenario(client)
    finally:
        await client.close()


def test_the_agents_process_dies_in_mid_answer_and_no_tool_runs_twice(breakable: UpProcess, witness: Path) -> None:
    async def scenario(client: Client) -> Ear:
        worker = breakable.pid("worker-0")
        ear = await command(client, "crash-a", "crash-a1", agent="counted", text="What is 12 times 34?")
        await ear.until("tool.returned")
        os.kill(worker, signal.SIGSTOP)  # the answer cannot end before the kill
        os.kill(breakable.pid("agents-0"), signal.SIGKILL)
        os.kill(worker, signal.SIGCONT)
        await ear.until("run.finished")
        return ear

    ear = asyncio.run(bounded(breakable, scenario))
    assert witness.read_text(encoding="utf-8").splitlines() == ["default/crash-a/crash-a1-1-t0"]
    assert ear.types.count("tool.called") == 1
    assert "408" in ear.text
    shown = breakable.cli("replay", "show", "crash-a", "--json").stdout
    messages = [json.loads(line) for line in shown.splitlines() if json.loads(line)["kind"] == "message.added"]
    assert [line["data"]["message"]["content"] for line in messages] == ["What is 12 times 34?"]
    assert breakable.cli("replay", "verify", "crash-a").returncode == 0


def test_a_ui_message_stream_goes_on_when_the_agents_process_dies(breakable: UpProcess, witness: Path) -> None:
    chat, worker = f"{breakable.url}/api/agents/counted/chat", breakable.pid("worker-0")
    said = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "What is 12 times 34?"}]}
    message, kinds, ended = GrowingMessage(), list[str](), False
    with httpx.stream("POST", chat, json={"id": "crash-ui", "messages": [said]}, timeout=RECOVERY_S) as stream:
        for line in stream.iter_lines():
            ended = ended or line == "data: [DONE]"
            if ended or not line.startswith("data: "):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            message.take(chunk)
            kinds.append(chunk["type"])
            if chunk["type"] == "tool-output-available":
                os.kill(worker, signal.SIGSTOP)  # the answer cannot end before the kill
                os.kill(breakable.pid("agents-0"), signal.SIGKILL)
                os.kill(worker, signal.SIGCONT)
    assert (ended, kinds[-1]) == (True, "finish")
    assert (kinds.count("start"), kinds.count("tool-output-available"), "error" in kinds) == (1, 1, False)
    assert kinds.count("text-start") == kinds.count("text-end") > 0
    assert "408" in "".join(part.get("text", "") for part in message.parts)
    assert len(witness.read_text(encoding="utf-8").splitlines()) == 1
    stored = httpx.get(f"{chat}/crash-ui/messages").json()
    assert stored[-1]["parts"] == message.parts


def test_the_worker_dies_in_mid_answer_and_the_conversation_completes(breakable: UpProcess, witness: Path) -> None:
    async def scenario(client: Client) -> Ear:
        ear = await command(client, "crash-w", "crash-w1", agent="counted", text="What is 12 times 34?")
        await ear.until("tool.returned")
        await ear.until("delta")
        worker = breakable.pid("worker-0")
        os.kill(worker, signal.SIGKILL)
        await ear.until("run.finished")
        return ear

    ear = asyncio.run(bounded(breakable, scenario))
    assert witness.read_text(encoding="utf-8").splitlines() == ["default/crash-w/crash-w1-1-t0"]
    assert "408" in ear.text
    assert breakable.cli("replay", "verify", "crash-w").returncode == 0


def test_a_tool_that_ends_its_process_is_given_up_and_its_neighbours_go_on(witness: Path, own_stack: UpProcess) -> None:
    async def scenario(client: Client) -> tuple[Ear, Ear]:
        ear = await command(client, "crash-t", "crash-t1", agent="doomed", text="What is 12 times 34?")
        neighbour = await command(client, "crash-n", "crash-n1", agent="demo", text="What is 12 times 34?")
        await ear.until("run.finished")
        await neighbour.until("run.finished")
        return ear, neighbour

    ear, neighbour = asyncio.run(bounded(own_stack, scenario))
    assert witness.read_text(encoding="utf-8").splitlines() == ["12 * 34"] * 3
    assert ear.types.count("tool.resumed") == 2
    assert "tool.failed" in ear.types
    assert "408" in neighbour.text
    shown = own_stack.cli("replay", "show", "crash-t").stdout
    assert "attempt 3: its process had ended" in shown
    # whatever the model tries after that
    assert shown.count("ended each of the 3 times") == 1
    assert own_stack.cli("replay", "verify", "crash-t").returncode == 0
    assert own_stack.process.poll() is None
