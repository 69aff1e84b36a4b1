"""What is asked in a measurement, and when, comes from its seed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from infra.bench.workload import DatasetWrong, Question, arrivals, custom_questions, random_questions, random_tokens


def test_the_same_seed_asks_the_same() -> None:
    assert random_tokens(3, 5, 100, 7) == random_tokens(3, 5, 100, 7) != random_tokens(3, 5, 100, 8)
    asked = [random_questions(4, (10, 20), 0.5, 3, seed) for seed in (1, 1, 2)]
    assert asked[0] == asked[1] != asked[2]
    assert arrivals(9, 2.0, 1.0, 1) == arrivals(9, 2.0, 1.0, 1) != arrivals(9, 2.0, 1.0, 2)


def test_lengths_are_as_asked_for_or_around_it() -> None:
    exact = random_questions(5, (10, 20), 0.0, 2, 1)
    assert {(len(str(each.prompt).split()), each.max_tokens) for each in exact} == {(12, 20)}
    assert len({tuple(str(each.prompt).split()[:2]) for each in exact}) == 1
    varied = random_questions(50, (10, 20), 0.5, 0, 1)
    assert {len(str(each.prompt).split()) for each in varied} <= set(range(5, 16))
    assert len({each.max_tokens for each in varied}) > 5
    assert all(0 <= token < 9 for prompt in random_tokens(20, 5, 9, 1) for token in prompt)


@pytest.mark.parametrize(("burstiness", "variation"), [(0.25, 2.0), (1.0, 1.0), (4.0, 0.5)])
def test_gaps_are_as_long_as_the_rate_says_and_as_uneven_as_the_burstiness(burstiness: float, variation: float) -> None:
    gaps = np.diff(arrivals(20_000, 5.0, burstiness, 3))
    assert gaps.mean() == pytest.approx(0.2, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.1)


def test_without_a_rate_all_come_at_once() -> None:
    assert arrivals(3, math.inf, 1.0, 1) == [0.0, 0.0, 0.0]


def test_prompts_of_a_file_are_asked_in_turn(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one", "output_tokens": 3}\n\n{"prompt": "two"}\n', encoding="utf-8")
    assert custom_questions(file, 3, 9) == [Question("one", 3), Question("two", 9), Question("one", 3)]


@pytest.mark.parametrize(("text", "says"), [(None, "No such file"), ("", "no prompt"), ('{"p": 1}', "line 1")])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str | None, says: str) -> None:
    file = tmp_path / "prompts.jsonl"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(DatasetWrong, match=says) as wrong:
        custom_questions(file, 1, 1)
    assert str(file) in str(wrong.value)
