"""What the trace has lost of an answer is named where its steps are shown."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from tests.system.conftest import UpProcess, ask, chat, records
from tests.system.test_erasure import eventually
from tests.system.test_record import wait_until_recorded

pytestmark = pytest.mark.servers


async def _lose(url: str, *statements: str) -> None:
    client = await asyncpg.connect(url)
    try:
        for statement in statements:
            await client.execute(statement)
    finally:
        await client.close()


def test_lost_steps_and_characters_are_named(own_stack: UpProcess) -> None:
    thread = chat(own_stack, ask("What is 12 times 34?")).headers["X-Ostinato-Thread"]
    wait_until_recorded(own_stack)
    # the last text of an answer is gathered for a moment before it is sent to the trace
    eventually(lambda: "gap" not in own_stack.cli("replay", "show", thread, "--steps").stdout)
    lines = records(own_stack.cli("replay", "show", thread, "--steps", "--json"))
    steps = [line["step"] for line in lines if "step" in line]
    lost = steps[len(steps) // 2]
    asyncio.run(
        _lose(
            own_stack.postgres_url,
            f"DELETE FROM record WHERE subject LIKE 'step.%.plan' AND n = {lost}",
            "DELETE FROM record WHERE subject LIKE 'trace.%' AND n = 0",
        )
    )
    shown = own_stack.cli("replay", "show", thread, "--steps").stdout
    assert f"gap: step {lost} is not in the trace (scheduler p" in shown
    assert "characters are in no frame of the trace" in shown
    told = records(own_stack.cli("replay", "show", thread, "--steps", "--json"))
    assert {line["missing"] for line in told if "missing" in line} == {"steps", "characters"}
