"""Chains of models: who is asked next, when, for which reasons, and what is told of those who could not be had."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from actors.errors import CallFailed, ProviderFailed
from actors.models.breaker import Breaker
from actors.models.chain import Chained, ChainFailed
from actors.models.guarded import Guarded
from actors.models.provider import ModelAnswer, ModelCall, ModelProvider, OnText, Piece
from actors.testing import FixedClock, ScriptedModel
from schemas.messages import Usage
from schemas.models import ModelChain, ModelEntry
from schemas.runs import ErrorKind, Problem
from tests.actors.models.calls import asking

pytestmark = pytest.mark.anyio


async def silently(piece: Piece, /) -> None:
    """Take no text."""


def failing(kind: ErrorKind, retry_after_ms: int = 0) -> ScriptedModel:
    return ScriptedModel(lambda _: Problem(kind=kind, message=f"no: {kind}", retry_after_ms=retry_after_ms))


class Breaks:
    """A model that says a word and fails, or fails at once."""

    def __init__(self, says: str, failure: CallFailed, slowly: asyncio.Event | None = None) -> None:
        self.says = says
        self.failure = failure
        self.slowly = slowly
        self.aborted: list[str] = []

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        if self.says:
            await on_text(Piece(0, self.says))
        if self.slowly is not None:
            await self.slowly.wait()
        raise self.failure

    async def search(self, call: ModelCall) -> list[ModelAnswer]:
        raise self.failure

    async def note(self, note: object) -> None: ...

    async def abort(self, request: str) -> None:
        self.aborted.append(request)


class Waits:
    """What a chain waits for, without waiting."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.waited.append(seconds)


def chain(*entries: ModelEntry | str, waits: Waits | None = None, **models: ModelProvider) -> Chained:
    whole = ModelChain(tuple(ModelEntry(entry) if isinstance(entry, str) else entry for entry in entries))
    return Chained(whole, models, waits or Waits())


@pytest.mark.parametrize("kind", ["overloaded", "timeout", "engine"])
async def test_the_next_one_is_asked_where_one_cannot_be_had(kind: ErrorKind) -> None:
    second = ScriptedModel(lambda _: "well")
    answer = await chain("a", "b", a=failing(kind), b=second).call(asking(), silently)
    assert answer.text == "well"
    assert [(passed.model, passed.kind) for passed in answer.passed_over] == [("a", kind)]
    assert [call.model for call in second.calls] == ["b"]


@pytest.mark.parametrize("kind", ["invalid", "too_long", "key", "budget", "unknown_model", "aborted"])
async def test_what_every_model_would_refuse_is_asked_of_none_but_the_first(kind: ErrorKind) -> None:
    second = ScriptedModel(lambda _: "well")
    with pytest.raises(CallFailed) as failed:
        await chain("a", "b", a=failing(kind), b=second).call(asking(), silently)
    assert failed.value.problem.kind == kind
    assert second.calls == []


async def test_after_the_first_word_nobody_else_is_asked() -> None:
    second = ScriptedModel(lambda _: "well")
    first = Breaks("one", ProviderFailed(Problem(kind="overloaded", message="cut"), elsewhere=True))
    heard: list[str] = []

    async def hear(piece: Piece, /) -> None:
        heard.append(piece.text)

    with pytest.raises(CallFailed, match="cut"):
        await chain("a", "b", a=first, b=second).call(asking(), hear)
    assert heard == ["one"]
    assert second.calls == []


async def test_an_entry_has_its_own_retries_waits_and_settings() -> None:
    answers = iter([Problem(kind="overloaded", message="x", retry_after_ms=2000), Problem(kind="engine", message="y")])
    first = ScriptedModel(lambda _: next(answers, "third time"))
    waits = Waits()
    options, headers = {"reasoning_effort": "low"}, {"x-team": "search"}
    entry = ModelEntry("a", retries=2, temperature=0.5, max_tokens=9, options=options, headers=headers)
    answer = await chain(entry, "b", waits=waits, a=first, b=failing("engine")).call(asking(), silently)
    assert answer.text == "third time"
    assert waits.waited == [2.0, 1.0]
    assert (first.calls[0].sampling.temperature, first.calls[0].sampling.max_tokens) == (0.5, 9)
    assert (first.calls[0].options, first.calls[0].headers) == (options, headers)


async def test_who_wants_to_be_left_alone_for_long_is_not_waited_for() -> None:
    first, waits = failing("overloaded", 60_000), Waits()
    entry = ModelEntry("a", retries=5)
    assert (
        await chain(entry, "b", waits=waits, a=first, b=ScriptedModel(lambda _: "b")).call(asking(), silently)
    ).text == "b"
    assert len(first.calls) == 1
    assert waits.waited == []


async def test_when_none_can_be_had_all_are_told_of() -> None:
    with pytest.raises(ChainFailed) as failed:
        await chain("a", "b", a=failing("timeout"), b=failing("overloaded", 300)).call(asking(), silently)
    assert "none of a, b could be had" in failed.value.problem.message
    assert failed.value.problem.retry_after_ms == 300
    assert [passed.model for passed in failed.value.passed] == ["a"]


async def test_a_first_word_that_does_not_come_in_time_is_not_waited_for() -> None:
    never = asyncio.Event()
    slow = Breaks("", ProviderFailed(Problem(kind="engine", message="late"), elsewhere=True), never)
    answer = await chain(ModelEntry("a", first_s=0.05), "b", a=slow, b=ScriptedModel(lambda _: "b")).call(
        asking(), silently
    )
    assert answer.text == "b"
    assert "no word came within 0.05 s" in answer.passed_over[0].message
    assert slow.aborted == [asking().request]


async def test_a_whole_answer_may_have_a_bound_too() -> None:
    never = asyncio.Event()
    slow = Breaks("a word", ProviderFailed(Problem(kind="engine", message="late"), elsewhere=True), never)
    with pytest.raises(CallFailed, match="did not come to its end"):
        await chain(ModelEntry("a", total_s=0.05, first_s=1), a=slow).call(asking(), silently)


async def test_a_cancelled_call_asks_nobody_else() -> None:
    started, never = asyncio.Event(), asyncio.Event()
    slow = Breaks("x", ProviderFailed(Problem(kind="engine", message="late"), elsewhere=True), never)
    second = ScriptedModel(lambda _: "b")

    async def hear(piece: Piece, /) -> None:
        started.set()

    asked = asyncio.create_task(chain("a", "b", a=slow, b=second).call(asking(), hear))
    await started.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert second.calls == []


def guarded(inner: ModelProvider, failures: int = 2) -> tuple[Guarded, FixedClock]:
    clock = FixedClock()
    return Guarded("a", inner, Breaker(clock, failures, open_s=10)), clock


async def fails_with(model: ModelProvider) -> Problem:
    with pytest.raises(CallFailed) as failed:
        await model.call(asking(), silently)
    return failed.value.problem


@pytest.fixture
def away() -> Callable[[int], Breaks]:
    def made(retry_after_ms: int) -> Breaks:
        problem = Problem(kind="overloaded", message="busy", retry_after_ms=retry_after_ms)
        return Breaks("", ProviderFailed(problem, elsewhere=True))

    return made


async def test_a_model_that_fails_again_and_again_is_left_alone_and_then_tried_once(
    away: Callable[[int], Breaks],
) -> None:
    inner = away(0)
    model, clock = guarded(inner)
    assert [(await fails_with(model)).message for _ in range(3)] == [
        "busy",
        "busy",
        "a failed too often: it is left alone for 10 s more",
    ]
    clock.microseconds += 10_000_001
    assert (await fails_with(model)).message == "busy"
    assert "left alone" in (await fails_with(model)).message
    clock.microseconds += 10_000_001
    well = replace_inner(model, ScriptedModel(lambda _: "well"))
    assert (await well.call(asking(), silently)).text == "well"
    assert (await fails_with(model)).message == "busy"


def replace_inner(model: Guarded, inner: ModelProvider) -> Guarded:
    return Guarded(model.name, inner, model.breaker)


async def test_a_breaker_stays_open_as_long_as_the_provider_asks(away: Callable[[int], Breaks]) -> None:
    model, clock = guarded(away(60_000), failures=1)
    assert (await fails_with(model)).message == "busy"
    clock.microseconds += 50_000_000
    left = await fails_with(model)
    assert (left.kind, left.retry_after_ms) == ("overloaded", 10_000)


async def test_what_lies_with_the_caller_opens_no_breaker() -> None:
    model, _ = guarded(Breaks("", ProviderFailed(Problem(kind="invalid", message="bad"), elsewhere=False)), failures=1)
    assert [(await fails_with(model)).message for _ in range(3)] == ["bad"] * 3


async def test_one_call_at_a_time_tries_an_open_breaker(away: Callable[[int], Breaks]) -> None:
    model, clock = guarded(away(0), failures=1)
    await fails_with(model)
    clock.microseconds += 10_000_001
    never = asyncio.Event()
    started = asyncio.Event()

    async def hear(piece: Piece, /) -> None:
        started.set()

    slow = replace_inner(model, Breaks("x", ProviderFailed(Problem(kind="engine", message="l"), elsewhere=True), never))
    trying = asyncio.create_task(slow.call(asking(), hear))
    await started.wait()
    assert "left alone" in (await fails_with(model)).message
    trying.cancel()
    await asyncio.gather(trying, return_exceptions=True)
    assert (await fails_with(model)).message == "busy"


async def test_a_model_that_says_nothing_again_and_again_is_left_alone_too() -> None:
    silent = Breaks("", ProviderFailed(Problem(kind="engine", message="late"), elsewhere=True), asyncio.Event())
    model, _ = guarded(silent, failures=2)
    asked = chain(ModelEntry("a", first_s=0.01), "b", a=model, b=ScriptedModel(lambda _: "well"))
    told = [(await asked.call(asking(), silently)).passed_over[0].message for _ in range(3)]
    assert ["no word came" in message for message in told] == [True, True, False]
    assert "left alone" in told[2]
    assert len(silent.aborted) == 2


async def test_an_open_breaker_sends_a_chain_on(away: Callable[[int], Breaks]) -> None:
    model, _ = guarded(away(0), failures=1)
    models = {"a": model, "b": ScriptedModel(lambda _: "b")}
    whole = Chained(ModelChain((ModelEntry("a"), ModelEntry("b"))), models, Waits())
    for _ in range(2):
        answer = await whole.call(replace(asking(), model="a"), silently)
        assert (answer.text, answer.usage) == ("b", Usage(prompt_tokens=1, completion_tokens=1))
    assert "left alone" in answer.passed_over[0].message
