"""Processors that raise, give something else than they should, or never end: what they were to look at goes nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from actors.agent.guarding import looked_at
from actors.errors import CallFailed
from actors.models.provider import ModelAnswer, ModelCall, OnText
from actors.processors.guarded import Guarded, tool_result
from actors.processors.processor import About, Processor, Tripped
from actors.testing import ScriptedModel
from bus.errors import Unavailable
from schemas import codec
from schemas.messages import Usage
from schemas.runs import Problem, ToolReturned
from tests.actors.processors.test_guarded import CALL, Heard

pytestmark = pytest.mark.anyio

HOOKS = ("input", "prompt", "answer", "result", "error", "tool_result")


class Ill(Processor):
    """Does something in one of its hooks."""

    name = "ill"

    def __init__(self, at: str, outcome: Any, timeout_s: float = 300.0, *, holds: bool = False) -> None:
        self.at = at
        self.outcome = outcome
        self.timeout_s = timeout_s
        self.holds = holds

    async def _do(self, hook: str, given: Any) -> Any:
        if hook != self.at:
            return given
        if self.outcome == "endless":
            await asyncio.Event().wait()
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    async def input(self, messages: Any, about: About) -> Any:
        return await self._do("input", messages)

    async def prompt(self, messages: Any, about: About) -> Any:
        return await self._do("prompt", messages)

    async def answer(self, answer: Any, about: About) -> Any:
        return await self._do("answer", answer)

    async def result(self, answer: Any, about: About) -> Any:
        return await self._do("result", answer)

    async def error(self, problem: Any, about: About) -> Any:
        return await self._do("error", problem)

    async def tool_result(self, tool: str, content: Any, about: About) -> Any:
        return await self._do("tool_result", content)


async def stopped(hook: str, processor: Processor) -> str:
    """Have the hook be called, and give the words of what came of it."""
    if hook == "tool_result":
        return await tool_result([processor], "look", "a secret", About(None))
    script = Problem("engine", "no") if hook == "error" else "a secret"
    heard = Heard()
    with pytest.raises(CallFailed) as failed:
        await Guarded(ScriptedModel(lambda _: script), [processor], first=True).call(CALL, heard)
    assert failed.value.problem.kind == "tripwire"
    assert heard.text in {"", "a secret"}
    return failed.value.problem.message


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (ValueError("a secret"), "it broke (ValueError)"),
        (TimeoutError("a secret"), "it broke (TimeoutError)"),
        (RecursionError(), "it broke (RecursionError)"),
        ("endless", "it took longer than 0.05 s"),
    ],
)
async def test_a_hook_that_breaks_or_never_ends_stops_the_call_and_quotes_nothing(
    hook: str, outcome: Any, why: str
) -> None:
    told = await stopped(hook, Ill(hook, outcome, 0.05 if outcome == "endless" else 300.0))
    assert told.endswith(f"processor 'ill': {why}")
    assert "secret" not in told


@pytest.mark.parametrize("hook", [hook for hook in HOOKS if hook != "input"])
@pytest.mark.parametrize("outcome", [None, 7, "words", [None], ["a"], b"bytes"])
async def test_a_hook_that_gives_something_else_than_it_should_stops_the_call(hook: str, outcome: Any) -> None:
    if hook == "tool_result" and outcome == "words":
        assert await stopped(hook, Ill(hook, outcome)) == "words"
    else:
        assert (await stopped(hook, Ill(hook, outcome))).endswith("processor 'ill': it broke (TypeError)")


@pytest.mark.parametrize("failure", [CallFailed(Problem("overloaded", "later")), Unavailable("away")])
async def test_a_model_or_bus_that_a_processor_cannot_reach_is_no_fault_of_its_own(failure: Exception) -> None:
    with pytest.raises(type(failure), match=str(failure)):
        await Guarded(ScriptedModel(lambda _: "fine"), [Ill("prompt", failure)], first=True).call(CALL, Heard())


async def test_a_tool_has_its_result_also_where_a_processor_breaks() -> None:
    event = ToolReturned("e", "k", "a secret", result={"a": "secret"})
    for outcome in (ValueError("a secret"), TimeoutError(), None):
        after = await looked_at([Ill("tool_result", outcome)], "look", event)
        assert isinstance(after, ToolReturned)
        assert after.content.startswith("error: kept back by processor 'ill'")
        assert "secret" not in str(after)


@dataclass
class Sick(Processor):
    """Has a stream that is ill, or chooses tools badly."""

    feeds: Any = None
    shows: Any = ()
    begins: bool = True
    name: str = "sick"

    def tools_shown(self, tools: Any, messages: Any) -> Any:
        return tools if self.shows == () else self.shows

    def stream(self, about: About) -> Any:
        if not self.begins:
            raise ValueError("a secret")
        return self

    def feed(self, text: str) -> Any:
        if isinstance(self.feeds, Exception):
            raise self.feeds
        return self.feeds

    def end(self) -> str:
        return ""


@pytest.mark.parametrize(
    "sick", [Sick(ValueError("a secret")), Sick(None), Sick(7), Sick(begins=False), Sick("", None), Sick("", [7])]
)
async def test_a_stream_or_a_choice_of_tools_that_breaks_stops_the_call_and_quotes_nothing(sick: Sick) -> None:
    heard = Heard()
    with pytest.raises(CallFailed, match=r"processor 'sick': it broke") as failed:
        await Guarded(ScriptedModel(lambda _: "a secret"), [sick], first=True).call(CALL, heard)
    assert "secret" not in failed.value.problem.message + heard.text


async def test_half_a_character_of_a_processors_stops_no_thread() -> None:
    def answering(text: str) -> ModelAnswer:
        return ModelAnswer(text=text, finish_reason="stop", usage=Usage())

    heard = Heard()
    ill = Ill("result", answering("half \ud800 é"), holds=True)
    answer = await Guarded(ScriptedModel(lambda _: "fine"), [ill], first=True).call(CALL, heard)
    assert answer.text == heard.text == "half ? é"
    answer = await Guarded(ScriptedModel(lambda _: "fine"), [Sick("half \udfff é")], first=True).call(
        CALL, heard := Heard()
    )
    assert answer.text == heard.text == "half ? é"
    trips = Ill("prompt", Tripped("because \ud800 of " + "x" * 2_000_000))
    with pytest.raises(CallFailed) as failed:
        await Guarded(ScriptedModel(lambda _: "fine"), [trips], first=True).call(CALL, Heard())
    assert len(codec.encode(failed.value.problem) + codec.encode(failed.value.processed)) < 3000
    after = await looked_at([trips], "look", ToolReturned("e", "k", "x"))
    assert codec.encode(after)


class Asks(Processor):
    """Asks the model in its prompt."""

    name = "asks"
    timeout_s = 0.05

    async def prompt(self, messages: Sequence[Any], about: About) -> Sequence[Any]:
        assert about.judge is not None
        await about.judge("asks", "well?")
        return messages


async def test_a_judge_that_never_answers_is_waited_for_no_longer_than_its_processor_may_take() -> None:
    class Silent(ScriptedModel):
        async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
            await asyncio.Event().wait()
            raise AssertionError

    with pytest.raises(CallFailed, match=r"it took longer than 0\.05 s"):
        await Guarded(Silent(lambda _: ""), [Asks()], first=True).call(CALL, Heard())
