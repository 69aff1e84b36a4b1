"""Attention kernels in Triton's interpreter: many spans, chunks in any mix, and numbers that depend on nobody else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.kernels.batch import PagedBatch
from engine.kernels.reference import ReferenceOps
from tests.engine.kernels.conftest import lay_out, random

pytest.importorskip("triton", reason="the extra 'gpu' is not installed")

from engine.kernels.gpu.decode import SPAN, decode
from engine.kernels.gpu.keys import Look
from engine.kernels.gpu.ops import TritonOps
from engine.kernels.gpu.pointwise import turn_and_store
from engine.kernels.gpu.prefill import tile_for

BLOCKS = 200
LENGTHS = [1, SPAN, SPAN + 1, 2 * SPAN + 90]


def attended(batch: PagedBatch, query: Tensor, cache: Tensor, look: Look) -> Tensor:
    return TritonOps().attention(batch, look.scale, look.window, look.cap)(query, cache)


def alone(batch: PagedBatch, at: int) -> PagedBatch:
    return PagedBatch(
        batch.slots, batch.tables[at : at + 1], batch.counts[at : at + 1], batch.lengths[at : at + 1], batch.block_size
    )


@pytest.mark.parametrize("look", [Look(0.3), Look(0.3, 300), Look(0.3, 40, 0.7)], ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(6, 2, 10), (1, 1, 1)])
def test_decoding_puts_spans_together(look: Look, heads: int, kv_heads: int, head_dim: int) -> None:
    batch = lay_out([(1, length) for length in LENGTHS], 16, BLOCKS)
    query, cache = random(len(LENGTHS), heads, head_dim), random(BLOCKS, 16, 2, kv_heads, head_dim)
    expected = ReferenceOps().attention(batch, look.scale, look.window, look.cap)(query, cache)
    torch.testing.assert_close(attended(batch, query, cache, look), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("look", [Look(0.3), Look(0.3, 300, 0.7)], ids=str)
def test_a_decoded_token_gets_the_same_bits_whoever_is_beside_it(look: Look) -> None:
    batch = lay_out([(1, length) for length in LENGTHS], 16, BLOCKS)
    query, cache = random(len(LENGTHS), 3, 10), random(BLOCKS, 16, 2, 1, 10)
    together = attended(batch, query, cache, look)
    for at in range(len(LENGTHS)):
        assert torch.equal(attended(alone(batch, at), query[at : at + 1], cache, look)[0], together[at])


@pytest.mark.parametrize("look", [Look(0.3), Look(0.3, 21, 0.7)], ids=str)
def test_a_token_of_a_prompt_gets_the_same_bits_in_any_chunk_and_whoever_is_beside_it(look: Look) -> None:
    requests = [(3, 3), (90, 150), (17, 20)]
    batch = lay_out(requests, 16, BLOCKS)
    query, cache = random(110, 3, 10), random(BLOCKS, 16, 2, 1, 10)
    together = attended(batch, query, cache, look)[3:93]
    pieces = []
    for first, count in ((0, 2), (2, 47), (49, 41)):
        piece = PagedBatch(batch.slots, batch.tables[1:2], np.array([count]), np.array([60 + first + count]), 16)
        pieces.append(attended(piece, query[3 + first : 3 + first + count], cache, look))
    assert torch.equal(torch.cat(pieces), together)


@pytest.mark.parametrize("look", [Look(0.3), Look(0.3, 30)], ids=str)
def test_what_is_not_seen_may_be_anything(look: Look) -> None:
    batch = lay_out([(1, 37), (1, 300), (20, 45)], 16, BLOCKS)
    query, cache = random(22, 6, 10), random(BLOCKS, 16, 2, 2, 10)
    expected = attended(batch, query, cache, look)
    poisoned = torch.full_like(cache, torch.nan)
    for table, count, length in zip(batch.tables, batch.counts.tolist(), batch.lengths.tolist(), strict=True):
        first = 0 if look.window is None else max(0, length - count + 1 - look.window)
        for at in range(first, length):
            poisoned[table[at // 16], at % 16] = cache[table[at // 16], at % 16]
    assert torch.equal(attended(batch, query, poisoned, look), expected)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(130, 1, 4), (6, 2, 130)])
def test_tiles_are_as_high_as_many_heads_want_and_lower_for_large_ones(
    heads: int, kv_heads: int, head_dim: int
) -> None:
    batch = lay_out([(1, 40), (70, 80)], 16, BLOCKS)
    query, cache = random(71, heads, head_dim), random(BLOCKS, 16, 2, kv_heads, head_dim)
    expected = ReferenceOps().attention(batch, 0.3, 50)(query, cache)
    torch.testing.assert_close(attended(batch, query, cache, Look(0.3, 50)), expected, rtol=1e-5, atol=1e-5)
    rows, keys = tile_for(query, heads // kv_heads)
    assert (rows, keys) == ((256, 64) if heads == 130 else (64, 32))


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), (128, 64)), ((8, 0), (128, 64)), ((8, 9), (64, 32))])
def test_a_multiprocessor_with_less_memory_gets_lower_tiles(
    capability: tuple[int, int], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    # what a device is like is asked once
    head = SimpleNamespace(
        shape=(1, 1, 256), itemsize=2, device=torch.device("cuda", 10 * capability[0] + capability[1])
    )
    assert tile_for(cast("Tensor", head), 4) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close(dtype: torch.dtype) -> None:
    batch = lay_out([(1, 300), (40, 50)], 16, BLOCKS)
    query, cache = random(41, 8, 16).to(dtype), random(BLOCKS, 16, 2, 2, 16).to(dtype)
    expected = ReferenceOps().attention(batch, 0.25)(query.float(), cache.float())
    torch.testing.assert_close(attended(batch, query, cache, Look(0.25)).float(), expected, rtol=2e-2, atol=2e-2)


def test_rows_that_stand_for_nobody_are_computed_for_nothing_and_store_nothing() -> None:
    query, cache, tables = random(3, 2, 8), random(6, 16, 2, 1, 8), torch.tensor([[1, 2], [0, 0], [3, 4]])
    lengths = torch.tensor([20, 0, 32])
    for longest in (32, 3 * SPAN):
        out = torch.empty(3, 2, 8)
        decode(query, cache, tables, lengths, longest, Look(0.3), out)
        assert torch.equal(out[1], torch.zeros(2, 8))
        assert out.isfinite().all()
    kept = cache.clone()
    turn_and_store(random(2, 3, 8), random(2, 1, 8), (random(2, 1, 8), random(2, 1, 8)), cache, torch.tensor([-1, -1]))
    assert torch.equal(cache, kept)
