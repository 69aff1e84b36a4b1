"""Tokens drawn by one kernel are those that `engine.sampling` draws, in Triton as in C++."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.errors import PlatformUnavailable
from engine.kernels.chances import Chances, RowKernels
from engine.kernels.ops import load_ops
from engine.sampling import Choices, sample
from tests.engine.kernels.conftest import random

Draw = Callable[[Tensor, Chances], Tensor]


@pytest.fixture(params=["native", "triton"])
def draw(request: pytest.FixtureRequest) -> Draw:
    return kernels(request.param).draw


def kernels(name: str) -> RowKernels:
    try:
        rows = load_ops(name).rows
        assert rows is not None
        return rows  # noqa: TRY300  the other way there is none
    except (ImportError, PlatformUnavailable) as error:
        pytest.skip(str(error))


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
def test_a_row_gets_the_token_that_sampling_gives_it(draw: Draw, vocabulary: int) -> None:
    logits = random(len(ROWS), vocabulary) * 3
    chosen = choices(ROWS, vocabulary)
    assert draw(logits, on_device(chosen)).tolist() == sample(logits, chosen).tolist()


def test_a_row_gets_the_same_token_whoever_is_beside_it(draw: Draw) -> None:
    logits, chosen = random(len(ROWS), 101) * 3, on_device(choices(ROWS, 4))
    together = draw(logits, chosen)
    for at in (1, 4, 6):
        row = slice(at, at + 1)
        assert torch.equal(draw(logits[row], Chances(*(part[row] for part in chosen))), together[row])


def test_ties_at_a_border_stay_in_and_what_is_forbidden_stays_out(draw: Draw) -> None:
    logits = torch.full((1, 40), float("-inf"))
    logits[0, [3, 7, 30]] = 1.0
    logits[0, 9] = 2.0
    chosen = choices([(1.0, 2, 0.8, 0.0)] * 6, 3)
    tokens = draw(logits.expand(6, -1), on_device(chosen)).tolist()
    assert tokens == sample(logits.expand(6, -1), chosen).tolist()
    assert {9} < set(tokens) <= {3, 7, 9, 30}


def test_of_no_number_that_may_be_drawn_some_token_comes_all_the_same(draw: Draw) -> None:
    logits = torch.full((len(ROWS), 50), float("-inf"))
    logits[1::2] = torch.nan
    with np.errstate(invalid="ignore"):  # the interpreter computes with numpy
        tokens = draw(logits, on_device(choices(ROWS, 3)))
    assert all(0 <= token < 50 for token in tokens.tolist())


@given(
    temperature=st.floats(0.0625, 2, width=32),
    top_k=st.integers(0, 400),
    top_p=st.floats(0.015625, 1, width=32),
    min_p=st.sampled_from([0.0, 0.01, 0.3]),
    steps=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_cxx_draws_among_what_sampling_draws_among_and_with_its_noise(
    temperature: float, top_k: int, top_p: float, min_p: float, steps: int, seed: int
) -> None:
    kernel = kernels("native").draw
    # few different numbers: there are ties, and a border lies well away from the next number
    logits = torch.randint(0, steps, (8, 3001), generator=torch.Generator().manual_seed(seed)).float()
    chosen = choices([(temperature, top_k, top_p, min_p)] * 8, seed % 1000)
    ours, theirs = kernel(logits, on_device(chosen)), sample(logits, chosen)
    differ = (ours != theirs).nonzero()[:, 0].tolist()
    for row in differ:  # only where rounding decides whether a whole step of the mass is in
        assert top_p < 1
        nearest = _shares_above(logits[row] / temperature, top_k, min_p) - top_p
        assert nearest.abs().min() < 1e-4


def _shares_above(scaled: Tensor, top_k: int, min_p: float) -> Tensor:
    """Which share of the mass lies above each of the numbers, in double precision."""
    chance = scaled.double().softmax(dim=-1)
    if min_p:
        chance = torch.where(chance >= min_p * chance.max(), chance, 0)
    if top_k:
        chance = torch.where(chance >= chance.sort(descending=True).values[min(top_k, len(chance)) - 1], chance, 0)
    chance /= chance.sum()
    return torch.stack([chance[scaled > number].sum() for number in scaled.unique()])


@pytest.mark.parametrize("name", ["native", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_a_number_that_is_not_finite_is_found_wherever_it_stands(name: str, dtype: torch.dtype, wrong: float) -> None:
    unsound = kernels(name).unsound
    x = random(70, 37).to(dtype)
    assert found(unsound(x)) == []
    x[3, 0] = x[20, 36] = x[69, 17] = wrong
    assert found(unsound(x)) == [3, 20, 69]
    assert found(unsound(x[:, :30])) == [3, 69]
    assert found(unsound(x[:, ::2])) == [3, 20]


def found(rows: Tensor | None) -> list[int]:
    return [] if rows is None else rows.nonzero()[:, 0].tolist()
