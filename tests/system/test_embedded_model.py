"""The embedded model, asked through the whole stack, on conversations it has never seen."""

from __future__ import annotations

from typing import Any

import pytest

from infra.demo import DEMO
from infra.embedded.agent import INSTRUCTIONS, TOOLS
from infra.embedded.dialogues import held_out
from infra.embedded.evaluate import report, score
from schemas import codec
from tests.system.conftest import UpProcess, chat


def test_the_demo_agent_is_the_one_the_model_was_trained_for() -> None:
    offered = tuple(
        codec.decode(codec.encode({"type": "function", "function": tool.spec}), dict) for tool in DEMO.tools
    )
    assert DEMO.instructions == INSTRUCTIONS
    assert offered == tuple(TOOLS)


@pytest.mark.servers
def test_twenty_unseen_conversations_are_answered_rightly(stack: UpProcess) -> None:
    def answer(messages: list[dict[str, Any]], tools: tuple[dict[str, Any], ...]) -> dict[str, Any]:
        body = {"model": "ostinato-mini", "messages": messages, "tools": list(tools), "temperature": 0}
        message: dict[str, Any] = chat(stack, body).json()["choices"][0]["message"]
        return message

    result = score(held_out(20), answer)
    assert result.accuracy == 1.0, report(result)
