"""What an agent's performer does with effects that wait."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from actors.agent.actor import AgentPerformer
from actors.agent.turns import AwaitDeadline
from actors.runtime.performer import Site
from actors.testing import FixedClock

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("at", [10**320, 1 << 62], ids=["no timer takes it", "far"])
async def test_a_deadline_after_all_days_is_waited_for_and_breaks_nothing(at: int) -> None:
    performer = AgentPerformer([], {}, "m", cast("Any", None), FixedClock())
    effect = AwaitDeadline("r1-deadline", "run", "r1", "", at=at)
    waiting = asyncio.create_task(performer.perform(effect, cast("Site", None), again=False))
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done
    waiting.cancel()
