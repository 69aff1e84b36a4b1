"""The embedded model, asked through the whole stack, on conversations it has never seen."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from infra.demo import DEMO
from infra.embedded.agent import INSTRUCTIONS, TOOLS
from infra.embedded.dialogues import held_out
from infra.embedded.evaluate import Message, Prompt, aspects, report, score_together
from schemas import codec
from tests.system.conftest import UpProcess, chat

CONVERSATIONS = held_out(500)
TOGETHER = 16


def test_the_demo_agent_is_the_one_the_model_was_trained_for() -> None:
    offered = tuple(
        codec.decode(codec.encode({"type": "function", "function": tool.spec}), dict) for tool in DEMO.tools
    )
    assert DEMO.instructions == INSTRUCTIONS
    assert offered == tuple(TOOLS)


def answers_of(stack: UpProcess) -> Callable[[list[Prompt]], list[Message]]:
    """Ask the stack as any OpenAI client does, many at once; every answer must end by itself, not at the limit."""

    def answer(prompt: Prompt) -> Message:
        messages, tools = prompt
        body = {"model": "ostinato-mini", "messages": messages, "tools": list(tools), "temperature": 0}
        choice = chat(stack, body).json()["choices"][0]
        assert choice["finish_reason"] == ("tool_calls" if choice["message"].get("tool_calls") else "stop")
        message: Message = choice["message"]
        return message

    def answers(prompts: list[Prompt]) -> list[Message]:
        with ThreadPoolExecutor(TOGETHER) as clients:
            return list(clients.map(answer, prompts))

    return answers


@pytest.mark.servers
def test_most_of_sixty_unseen_conversations_are_answered_rightly(stack: UpProcess) -> None:
    result = score_together(CONVERSATIONS[:60], answers_of(stack))
    assert result.accuracy >= 0.95, report(result)


@pytest.mark.servers
@pytest.mark.parametrize("aspect", ["five turns", "several calls", "tool error", "changed tool", "other setting"])
def test_what_is_harder_than_one_question_is_mostly_answered_rightly(stack: UpProcess, aspect: str) -> None:
    chosen = [each for each in CONVERSATIONS if aspect in aspects(each)][:70]
    assert len(chosen) >= 15
    result = score_together(chosen, answers_of(stack))
    assert result.accuracy >= 0.85, report(result)
