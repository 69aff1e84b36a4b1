"""Pieces that follow one another become one record, and nothing of them is lost or said twice."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import gathered as module
from bus.gathered import Gathered
from schemas.answers import CallTold
from schemas.live import Delta

pytestmark = pytest.mark.anyio


class Kept:
    def __init__(self) -> None:
        self.records: list[tuple[str, Delta]] = []

    def __call__(self, subject: str, delta: Delta) -> None:
        self.records.append((subject, delta))


def delta(effect: str, offset: int, text: str, *, thought: int = 0, reasoning: str = "", version: int = 3) -> Delta:
    return Delta("r1", "t1", effect, version, offset, text, reasoning=reasoning, reasoning_offset=thought)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text(max_size=4), st.text(max_size=2), st.booleans()), max_size=40))
def test_every_call_reads_the_same_from_its_records(pieces: list[tuple[str, str, str, bool]]) -> None:
    async def run() -> None:
        kept = Kept()
        gathered = Gathered(kept)
        said, thought = defaultdict(str), defaultdict(str)
        for effect, text, reasoning, flush in pieces:
            gathered.add("s", delta(effect, len(said[effect]), text, thought=len(thought[effect]), reasoning=reasoning))
            said[effect] += text
            thought[effect] += reasoning
            if flush:
                gathered.flush()
        gathered.flush()
        for effect in said:
            records = [record for _, record in kept.records if record.effect == effect]
            assert "".join(record.text for record in records) == said[effect]
            assert "".join(record.reasoning for record in records) == thought[effect]
            reached = 0
            for record in records:
                assert record.offset == reached
                reached += len(record.text)

    asyncio.run(run())


async def test_arguments_of_calls_are_joined_call_by_call() -> None:
    kept = Kept()
    gathered = Gathered(kept)
    calls = [CallTold(index, f"call_{index}", "sum") for index in range(2)]
    for call, offset, arguments in (
        (calls[0], 0, ""),
        (calls[0], 0, '{"a"'),
        (calls[1], 0, "{"),
        (calls[0], 4, ": 1}"),
    ):
        gathered.add("s", Delta("r1", "t1", "a", 3, 0, "", call=call, arguments_offset=offset, arguments=arguments))
    gathered.flush()
    assert [(record.call, record.arguments) for _, record in kept.records] == [
        (calls[0], '{"a": 1}'),
        (calls[1], "{"),
    ]


async def test_what_is_missing_or_said_again_is_not_glossed_over() -> None:
    kept = Kept()
    gathered = Gathered(kept)
    for piece in (delta("a", 0, "one"), delta("a", 4, "gap"), delta("a", 4, "again"), delta("a", 9, "new", version=5)):
        gathered.add("s", piece)
    gathered.flush()
    assert [(record.offset, record.text) for _, record in kept.records] == [
        (0, "one"),
        (4, "gap"),
        (4, "again"),
        (9, "new"),
    ]


async def test_a_piece_is_kept_soon_though_nothing_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SOON_S", 0.01)
    heard = asyncio.Event()
    gathered = Gathered(lambda *_: heard.set())
    gathered.add("s", delta("a", 0, "alone"))
    async with asyncio.timeout(5):
        await heard.wait()
