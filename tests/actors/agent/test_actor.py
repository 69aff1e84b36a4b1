"""What an agent's performer does with effects that wait."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from actors.agent.actor import AgentPerformer
from actors.agent.definition import Agent
from actors.agent.effects import AwaitDeadline, CallTool
from actors.runtime.performer import Site
from actors.testing import FixedClock, ScriptedModel
from actors.tools import tool
from schemas.messages import ToolCall
from schemas.programs import ToolBegan, ToolEnded
from schemas.runs import ToolCalled

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("at", [10**320, 1 << 62], ids=["no timer takes it", "far"])
async def test_a_deadline_after_all_days_is_waited_for_and_breaks_nothing(at: int) -> None:
    performer = AgentPerformer([], {}, "m", cast("Any", None), FixedClock())
    effect = AwaitDeadline("r1-deadline", "run", "r1", "", at=at)
    waiting = asyncio.create_task(performer.perform(effect, cast("Site", None), again=False))
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done
    waiting.cancel()


async def test_the_model_hears_when_a_tool_begins_and_when_it_has_returned_or_failed() -> None:
    seen: list[int] = []

    @tool(effect="pure")
    def look(where: str) -> str:
        """Look."""
        seen.append(len(model.notes))
        if where == "nowhere":
            raise LookupError(where)
        return "there"

    model = ScriptedModel(lambda call: "unused")
    agent = Agent(name="demo", instructions="Help.", tools=(look,))
    performer = AgentPerformer([agent], {"m": model}, "m", cast("Any", None), FixedClock())
    for number, where in enumerate(("here", "nowhere")):
        call = ToolCall("c1", "look", f'{{"where": "{where}"}}')
        called = ToolCalled(effect=f"r1-1-t{number}", call=call, effect_class="pure")
        effect = CallTool(called.effect, "run", "r1", "", called=called, agent="demo", notes={}, model="m")
        await performer.perform(effect, Site("acme", "t1", 1), again=False)
    assert model.notes == [
        ToolBegan("acme/t1", "r1-1-t0", "look"),
        ToolEnded("acme/t1", "r1-1-t0"),
        ToolBegan("acme/t1", "r1-1-t1", "look"),
        ToolEnded("acme/t1", "r1-1-t1"),
    ]
    assert seen == [1, 3]
