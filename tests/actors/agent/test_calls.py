"""Calls that a crash cut off, taken up again."""

from __future__ import annotations

import asyncio
import logging

import pytest

from actors.agent.calls import run_again
from actors.agent.effects import CallTool
from actors.tools import ToolContext, tool
from schemas.messages import ToolCall
from schemas.runs import ToolCalled, ToolIndeterminate

pytestmark = [pytest.mark.anyio, pytest.mark.deadline(20)]

SECRET = "my cat is Mitzi"


async def endless(context: ToolContext) -> None:
    await asyncio.Event().wait()


def failing(context: ToolContext) -> None:
    raise ValueError(SECRET)


@pytest.mark.parametrize("check", [endless, failing])
async def test_a_call_that_cannot_be_checked_is_not_made_again(check: object, caplog: pytest.LogCaptureFixture) -> None:
    used: list[str] = []

    @tool(effect="checkable", check=check, timeout_s=0.05)  # type: ignore[arg-type]
    async def pay() -> str:
        """Pay."""
        used.append("pay")
        return "paid"

    called = ToolCalled("r1-1-t0", ToolCall("k1", "pay", "{}"), "checkable")
    effect = CallTool(called.effect, "run", "r1", "", called=called, agent="demo", notes={})
    with caplog.at_level(logging.INFO):
        event = await run_again(pay, effect, ToolContext("acme", "t1", "key", 0, {}))
    assert isinstance(event, ToolIndeterminate)
    assert used == []
    assert "tool pay cannot be checked: " in caplog.text
    assert SECRET not in caplog.text
