"""What a guard made of texts is kept: the least lately used goes, by bytes; and texts are judged side by side."""

from __future__ import annotations

import asyncio

import pytest

from actors.errors import CallFailed
from actors.processors.judged import prompt_injection_detector
from actors.processors.processor import About
from actors.processors.verdicts import Mended, Verdicts
from schemas.messages import Message
from schemas.runs import Problem

pytestmark = pytest.mark.anyio


def test_what_was_of_use_longest_ago_goes_first() -> None:
    verdicts = Verdicts(most=1000)  # room for three
    for key in "abc":
        verdicts.keep(key, Mended())
    assert verdicts.get("a") is not None
    verdicts.keep("d", Mended())
    assert [key for key in "abcd" if verdicts.get(key) is not None] == ["a", "c", "d"]


def test_what_is_kept_is_bounded_by_its_bytes() -> None:
    verdicts = Verdicts(most=1_000_000)
    for key in "abcdef":
        verdicts.keep(key, Mended("x" * 100_000))
    assert [key for key in "abcdef" if verdicts.get(key) is not None] == ["e", "f"]
    for _ in range(9):
        verdicts.keep("f", Mended("x" * 100_000))  # the same again takes no more
    assert verdicts.get("e") is not None
    # one that is too large is kept alone: it was dear
    verdicts.keep("g", Mended("x" * 1_000_000))
    assert verdicts.get("g") is not None
    assert verdicts.get("f") is None


class Judging:
    """Answers once so many are asked at the same time."""

    def __init__(self, together: int = 1) -> None:
        self.asked: list[str] = []
        self.under_way = self.most = 0
        self._together = together
        self._enough = asyncio.Event()

    async def __call__(self, who: str, prompt: str, most: int = 0, /, *, model: str = "") -> str:
        self.asked.append(who)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self.under_way >= self._together:
            self._enough.set()
        await asyncio.wait_for(self._enough.wait(), 5)
        await asyncio.sleep(0)
        self.under_way -= 1
        return "none"


@pytest.mark.parametrize("strategy", ["block", "warn", "filter", "redact", "rewrite"])
async def test_a_history_of_any_length_is_judged_once_and_not_again_at_each_step(strategy: str) -> None:
    guard = prompt_injection_detector(strategy)  # type: ignore[arg-type]
    history = [Message("tool", f"page {at}") for at in range(1500)]
    for asked in (1500, 0):
        judge = Judging()
        await guard.prompt(history, About(None, judge))
        assert len(judge.asked) == asked


async def test_texts_are_judged_side_by_side_but_not_all_at_once() -> None:
    judge = Judging(together=8)
    await prompt_injection_detector().prompt([Message("tool", f"page {at}") for at in range(40)], About(None, judge))
    assert (judge.most, len(set(judge.asked))) == (8, 40)


async def test_a_text_that_stands_there_twice_is_judged_once() -> None:
    judge = Judging()
    await prompt_injection_detector("filter").prompt([Message("tool", "sunny")] * 5, About(None, judge))
    assert len(judge.asked) == 1


async def test_a_judge_that_fails_ends_the_others_and_what_was_judged_is_kept() -> None:
    guard, ended = prompt_injection_detector(), list[str]()

    async def failing(who: str, prompt: str, most: int = 0, /, *, model: str = "") -> str:
        if "page 0" in prompt:
            return "none"
        if "page 1" in prompt:
            raise CallFailed(Problem("engine", "it is down"))
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 5)
        except asyncio.CancelledError:
            ended.append(who)
            raise
        return "none"

    history = [Message("tool", f"page {at}") for at in range(3)]
    with pytest.raises(CallFailed, match="it is down"):
        await guard.prompt(history, About(None, failing))
    assert ended == [f"{guard.name}-prompt-2"]
    judge = Judging()
    await guard.prompt(history, About(None, judge))
    assert judge.asked == [f"{guard.name}-prompt-1", f"{guard.name}-prompt-2"]
