"""Tokens drawn by one kernel are those that `engine.sampling` draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.sampling import Choices, sample
from tests.engine.kernels.conftest import random

pytest.importorskip("triton", reason="the extra 'gpu' is not installed")

from engine.kernels.chances import Chances
from engine.kernels.gpu.drawing import draw


def choices(rows: list[tuple[float, int, float, float]], index: int) -> Choices:
    temperature, top_k, top_p, min_p = (np.array(column) for column in zip(*rows, strict=True))
    return Choices(
        temperature.astype(np.float32),
        top_k.astype(np.int64),
        top_p.astype(np.float32),
        min_p.astype(np.float32),
        seed=np.arange(len(rows)) * 977 - (3 << 40),
        index=np.full(len(rows), index),
    )


def on_device(chosen: Choices) -> Chances:
    parts = (chosen.temperature, chosen.top_k, chosen.top_p, chosen.min_p, chosen.seed, chosen.index)
    return Chances(*map(torch.from_numpy, parts))


ROWS = [
    (0.0, 0, 1.0, 0.0),
    (1.0, 0, 1.0, 0.0),
    (0.7, 5, 1.0, 0.0),
    (1.5, 0, 0.6, 0.0),
    (1.0, 8, 0.9, 0.0),
    (1.3, 0, 1.0, 0.2),
    (0.9, 3, 0.5, 0.05),
    (1.0, 1, 1.0, 0.0),
    (1.0, 1000, 0.01, 0.0),
]


@pytest.mark.parametrize("vocabulary", [5, 101, 4099])
def test_a_row_gets_the_token_that_sampling_gives_it(vocabulary: int) -> None:
    logits = random(len(ROWS), vocabulary) * 3
    chosen = choices(ROWS, vocabulary)
    assert draw(logits, on_device(chosen)).tolist() == sample(logits, chosen).tolist()


def test_a_row_gets_the_same_token_whoever_is_beside_it() -> None:
    logits, chosen = random(len(ROWS), 101) * 3, on_device(choices(ROWS, 4))
    together = draw(logits, chosen)
    for at in (1, 4, 6):
        row = slice(at, at + 1)
        assert torch.equal(draw(logits[row], Chances(*(part[row] for part in chosen))), together[row])


def test_ties_at_a_border_stay_in_and_what_is_forbidden_stays_out() -> None:
    logits = torch.full((1, 40), float("-inf"))
    logits[0, [3, 7, 30]] = 1.0
    logits[0, 9] = 2.0
    chosen = choices([(1.0, 2, 0.8, 0.0)] * 6, 3)
    tokens = draw(logits.expand(6, -1), on_device(chosen)).tolist()
    assert tokens == sample(logits.expand(6, -1), chosen).tolist()
    assert {9} < set(tokens) <= {3, 7, 9, 30}
