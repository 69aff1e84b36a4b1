"""The model that calls a run's one tool: it is that of open tools, and of nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from actors.errors import CallFailed
from actors.models.asking import missing_model
from actors.models.direct import DIRECT, OPENED, DirectCalls
from actors.models.provider import Piece
from schemas.generation import Sampling
from schemas.memory import MemoryPlan
from schemas.messages import ToolSpec
from schemas.models import ModelChain, ModelEntry
from schemas.profiles import ModePlan, Profile
from tests.actors.models.calls import asking

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def unheard(_piece: Piece, /) -> None:
    """Take no text."""


@pytest.mark.parametrize("agent", ["clerk", ""])
async def test_it_answers_no_agent_but_its_own(agent: str) -> None:
    call = msgspec.structs.replace(asking('{"what":"disk"}'), tools=(ToolSpec("wipe", "", {}),), agent=agent)
    with pytest.raises(CallFailed, match="open by themselves"):
        await DirectCalls().call(call, unheard)
    own = await DirectCalls().call(msgspec.structs.replace(call, agent=OPENED), unheard)
    assert [(one.name, one.arguments) for one in own.tool_calls] == [("wipe", '{"what":"disk"}')]


@pytest.mark.parametrize(
    "more",
    [
        {"model": DIRECT},
        {"model": f"local/{DIRECT}"},
        {"chain": ModelChain((ModelEntry("m"), ModelEntry(DIRECT)))},
        {"modes": (ModePlan("fast", model=DIRECT),)},
        {"memory": MemoryPlan(model=DIRECT)},
    ],
)
def test_a_run_of_another_agent_s_is_refused_wherever_it_names_it(more: dict[str, Any]) -> None:
    models: dict[str, Any] = {"m": None, DIRECT: None, f"local/{DIRECT}": None}
    profile = msgspec.structs.replace(Profile("clerk", "m", "", (), Sampling(), 1), **more)
    assert missing_model(profile, models) is not None
    assert missing_model(msgspec.structs.replace(profile, agent=OPENED), models) is None
