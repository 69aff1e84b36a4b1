"""Kernels in Triton's interpreter on numbers that lie farther off than an int32 counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.kernels.chances import Chances
from engine.kernels.packing import plain
from tests.engine.kernels.conftest import lay_out, random

pytest.importorskip("triton", reason="the extra 'gpu' is not installed")

from engine.kernels.gpu import pointwise
from engine.kernels.gpu.drawing import draw
from engine.kernels.gpu.gated import linear_gated
from engine.kernels.gpu.ops import TritonOps
from engine.kernels.gpu.quantized import Tiling, linear
from engine.kernels.gpu.routing import route
from engine.kernels.gpu.whole_numbers import rounded

BLOCKS = 60
APART = 1 << 30
"""Numbers from one row to the next: the third one is as far off as an int32 does not count."""
TILING = Tiling(16, 32, 32)


@pytest.fixture(scope="module")
def memory() -> Tensor:
    """Zeros of which the system gives no memory before they are written."""
    try:
        return torch.from_numpy(np.zeros((1 << 33) + (1 << 20), np.uint8))
    except MemoryError:
        pytest.skip("this system gives no memory beyond what it has")


def far(memory: Tensor, numbers: Tensor) -> Tensor:
    """Give three rows the same numbers, far from one another."""
    rows = memory.view(numbers.dtype).as_strided(numbers.shape, (APART, 1))
    return rows.copy_(numbers)


def test_blocks_of_a_large_cache_are_read_and_written_where_they_are(memory: Tensor) -> None:
    count = (1 << 31) // 256 + BLOCKS
    cache = memory.view(torch.float16)[: count * 256].view(count, 16, 2, 1, 8)
    near = cache[-BLOCKS:]
    near.copy_(random(*near.shape))
    batch = lay_out([(1, 37), (1, 300), (20, 45)], 16, BLOCKS)
    moved = replace(batch, tables=batch.tables + count - BLOCKS, shared={})
    query, ops = random(22, 6, 8).half(), TritonOps()
    expected = ops.attention(batch, 0.3)(query, near.clone())
    assert torch.equal(ops.attention(moved, 0.3)(query, cache), expected)

    new = (random(22, 7, 8).half(), random(22, 1, 8).half(), (random(22, 1, 8).half(), random(22, 1, 8).half()))
    expected = near.clone()
    pointwise.turn_and_store(*new, expected, batch.slots)
    pointwise.turn_and_store(*new, cache, batch.slots + (count - BLOCKS) * 16)
    assert torch.equal(near, expected)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: pointwise.rms_norm(x, torch.ones(64, dtype=x.dtype), 1e-5),
        lambda x: pointwise.add_rms_norm(x, x, torch.ones(64, dtype=x.dtype), 1e-5)[1],
        lambda x: pointwise.gate(x, "silu"),
        lambda x: rounded(x)[0],
        lambda x: route(x, 3, renormalised=True)[0],
        lambda x: linear(x, plain(random(7, 64).half()), tiling=TILING),
        lambda x: linear_gated(x, plain(random(6, 64).half()), "silu", TILING),
    ],
    ids=["norm", "sum and norm", "gate", "rounding", "route", "product", "gated product"],
)
def test_rows_are_read_where_they_are(memory: Tensor, compute: Callable[[Tensor], Tensor]) -> None:
    numbers = random(3, 64).half()
    assert torch.equal(compute(far(memory, numbers)), compute(numbers))


def test_rows_of_weights_and_of_logits_are_read_where_they_are(memory: Tensor) -> None:
    x, weight = random(5, 64).half(), plain(random(3, 64).half())
    expected = linear(x, weight, tiling=TILING)
    assert torch.equal(linear(x, replace(weight, data=far(memory, weight.data)), tiling=TILING), expected)
    some, whole = torch.ones(3), torch.arange(3)
    chances = Chances(some, whole, some / 2, some / 9, whole, whole)
    logits = random(3, 70)
    assert torch.equal(draw(far(memory, logits), chances), draw(logits, chances))
