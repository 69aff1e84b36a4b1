"""What requests want changed about their logits, against `transformers` where it has the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from engine.logits import Wanted, adjust, barren, changes_logits
from schemas.generation import Sampling

VOCABULARY = 50
PROMPT, OUTPUT = [3, 7, 7, 9, 3], [9, 11, 7, 11, 11]


def logits(rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(5)) * 3


def wanted(row: int = 0, output: list[int] | None = None, **parameters: Any) -> Wanted:
    sampling = Sampling(**parameters)
    return Wanted(row, sampling, np.array(PROMPT), np.array(OUTPUT if output is None else output, np.int32))


def adjusted(*wanted: Wanted, rows: int = 1) -> torch.Tensor:
    changed = logits(rows)
    adjust(changed, wanted)
    assert not barren(changed, [one.row for one in wanted]).any()
    return changed


SEEN = torch.tensor([PROMPT + OUTPUT])


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    expected = RepetitionPenaltyLogitsProcessor(1.4)(SEEN, logits())
    assert torch.equal(adjusted(wanted(repetition_penalty=1.4)), expected)


@pytest.mark.parametrize("words", [((4,),), ((7, 11, 11, 30), (11, 31), (9, 32)), ((4,), (11, 11, 6))])
def test_bad_words_are_those_of_transformers(words: tuple[tuple[int, ...], ...]) -> None:
    processor = NoBadWordsLogitsProcessor([list(word) for word in words], eos_token_id=49)
    assert torch.equal(adjusted(wanted(bad_words=words)), processor(SEEN, logits()))


def test_a_bad_word_may_not_begin_in_the_prompt() -> None:
    """What was said before is not the output's."""
    assert torch.equal(adjusted(wanted(bad_words=((3, 20),), output=[])), logits())


@pytest.mark.parametrize(("least", "stops"), [(5, []), (6, [2, 8]), (0, [])])
def test_no_stop_comes_before_min_tokens(least: int, stops: list[int]) -> None:
    processor = MinNewTokensLengthLogitsProcessor(len(PROMPT), least, [2, 8])
    changed = adjusted(wanted(min_tokens=least, stop_tokens=(2, 8)))
    assert torch.equal(changed, processor(SEEN, logits()))
    assert changed[0].isneginf().nonzero()[:, 0].tolist() == stops


def test_presence_and_frequency_are_taken_from_what_is_in_the_output_alone() -> None:
    expected = logits()
    expected[0, 9] -= 0.5 + 0.25
    expected[0, 11] -= 0.5 + 3 * 0.25
    expected[0, 7] -= 0.5 + 0.25
    assert torch.allclose(adjusted(wanted(presence_penalty=0.5, frequency_penalty=0.25)), expected, atol=1e-6)
    assert torch.equal(adjusted(wanted(presence_penalty=0.5, output=[])), logits())


def test_a_bias_is_added_and_only_allowed_tokens_stay() -> None:
    expected = torch.full((1, VOCABULARY), float("-inf"))
    expected[0, [1, 4]] = logits()[0, [1, 4]]
    expected[0, 4] += 2.5
    assert torch.equal(adjusted(wanted(allowed_token_ids=(1, 4), logit_bias={4: 2.5, 6: 100.0})), expected)


def test_rows_are_changed_each_by_its_own() -> None:
    every: list[dict[str, Any]] = [
        {"repetition_penalty": 1.3, "presence_penalty": 0.2},
        {"logit_bias": {1: -100.0}, "frequency_penalty": -0.5},
        {"allowed_token_ids": (1, 2, 3), "bad_words": ((11, 3),)},
        {"min_tokens": 9, "stop_tokens": (1,), "repetition_penalty": 0.8},
    ]
    rows = [0, 2, 3, 5]
    together = adjusted(*(wanted(row, **one) for row, one in zip(rows, every, strict=True)), rows=7)
    for row, one in zip(rows, every, strict=True):
        assert torch.equal(together[row], adjusted(wanted(row, **one), rows=7)[row])
    untouched = [row for row in range(7) if row not in rows]
    assert torch.equal(together[untouched], logits(7)[untouched])


def test_a_row_in_which_no_token_is_left_is_named() -> None:
    changed = logits(3)
    none = wanted(2, allowed_token_ids=(4,), bad_words=((4,),))
    adjust(changed, [wanted(0, presence_penalty=1.0), none])
    assert barren(changed, [0, 1, 2]).tolist() == [False, False, True]


def test_tokens_that_the_model_has_no_logit_for_change_nothing() -> None:
    beyond = wanted(
        logit_bias={VOCABULARY: 5.0, 3: 1.0}, bad_words=((VOCABULARY + 1,),), min_tokens=9, stop_tokens=(99,)
    )
    expected = logits()
    expected[0, 3] += 1
    assert torch.equal(adjusted(beyond), expected)
    only = logits()
    adjust(only, [wanted(allowed_token_ids=(VOCABULARY,))])
    assert barren(only, [0]).tolist() == [True]


def test_who_wants_nothing_costs_nothing() -> None:
    assert not changes_logits(Sampling(temperature=1.0, top_p=0.5, top_k=3, min_p=0.1, seed=4, stop_tokens=(1,)))
    assert changes_logits(Sampling(min_tokens=1))
