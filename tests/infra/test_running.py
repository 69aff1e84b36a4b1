"""A run as a program follows it: whatever its tools and the agents that it asks say on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from infra.running import Running, Settling, Waiting
from schemas import codec
from schemas.commands import Command, RunAgent
from schemas.live import Frame, Progress
from schemas.messages import ToolCall, Usage
from schemas.runs import ApprovalRequested, Event, RunFinished
from schemas.waits import ToolSuspended
from tests.infra.bridge.doors import committed

pytestmark = pytest.mark.anyio

COMMAND = Command("r1", "acme", "agent", "t1", "run", RunAgent("demo", "hi"))
CALL = ToolCall("k1", "dig", "{}")


def below(event: Event) -> dict[str, Any]:
    return {"agent": "worker", "thread": "s1", "run": "s1-r", "event": codec.decode(codec.encode(event), dict)}


async def asked_of(*said: Any) -> list[Waiting]:
    """Give what is asked in a run whose tool says this of itself."""
    asked: list[Waiting] = []

    async def frames() -> AsyncIterator[Frame]:
        for number, one in enumerate(said, 1):
            yield Progress("r1", "t1", "r1-1-t0", 3, number, one)
        await asyncio.sleep(0)  # whoever is asked has his turn before it is over
        yield committed(COMMAND, 4, RunFinished("done", 1, Usage()))

    async def ask(wait: Waiting) -> None:
        asked.append(wait)

    async def settle(thread: str, answer: Settling) -> None:
        raise AssertionError("nobody has answered")

    running = Running(COMMAND, frames(), {}, ask, settle)
    async for _ in running:
        pass
    assert running.finished is not None
    return asked


@pytest.mark.parametrize(
    "said",
    [
        "half",
        {"thread": "t2", "event": "begun"},
        {"thread": "t2", "event": {"type": "begun"}},
        {"thread": 7, "event": below(ApprovalRequested("e", CALL))["event"]},
        {"thread": "t2", "event": None},
        {"event": {"type": "approval.requested"}, "thread": "t2"},
    ],
)
async def test_a_tool_may_say_anything_of_itself(said: Any) -> None:
    assert await asked_of(said) == []


async def test_data_is_asked_for_though_it_was_not_heard_for_what_call() -> None:
    (wait,) = await asked_of(below(ToolSuspended("s1-r-1-t0", "k1", "how deep?")))
    assert (wait.kind, wait.thread, wait.effect, wait.payload) == ("data", "s1", "s1-r-1-t0", "how deep?")
