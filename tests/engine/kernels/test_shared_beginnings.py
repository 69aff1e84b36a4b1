"""Requests that begin with the same blocks are looked at together: the same bits as each of them alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import PlatformUnavailable
from engine.kernels.batch import PagedBatch
from engine.kernels.ops import Ops, load_ops
from tests.engine.kernels.conftest import random
from tests.engine.kernels.test_ops import SCALE, dense_attention

HEAD_DIM = 16
SPAN = 256
"""Keys that the kernels look at between two looks at their maximum; what is shared is shared in whole ones."""


@pytest.fixture(scope="module")
def ops() -> Ops:
    try:
        return load_ops("native")
    except PlatformUnavailable as error:
        pytest.skip(str(error))


Family = list[tuple[int, int]]
"""Of each request how many tokens it begins with as the first does, and how many it has in all."""


def laid(families: list[Family], block_size: int, several: int) -> tuple[PagedBatch, int]:
    """Give each family blocks of its own, and its members what they share; `several` tokens of a request that brings
    more than one end the batch. Returns how many blocks there are, too."""
    used, tables, lengths = 1, [], []
    for family in families:
        beginning: list[int] = []
        for shares, length in family:
            blocks = -(-length // block_size)
            kept = beginning[: min(shares // block_size, blocks)]
            own = list(range(used, used + blocks - len(kept)))
            used += len(own)
            tables.append(kept + own)
            lengths.append(length)
            beginning = beginning or tables[-1]
    counts = [1] * len(tables)
    if several:
        counts.append(several)
        tables.append(tables[0][: -(-lengths[0] // block_size)])
        lengths.append(max(lengths[0], several))
        tables[-1] += list(range(used, used + -(-lengths[-1] // block_size) - len(tables[-1])))
        used += len(tables[-1])
    widest = max(map(len, tables))
    padded = torch.tensor([table + [0] * (widest - len(table)) for table in tables])
    slots = torch.zeros(sum(counts), dtype=torch.int64)
    return PagedBatch(slots, padded, np.array(counts), np.array(lengths), block_size), used + 1


def filled(ops: Ops, blocks: int, block_size: int, kv_heads: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Return a cache as the kernels keep it, and the same as it is defined."""
    plain = random(blocks, block_size, 2, kv_heads, HEAD_DIM).to(dtype)
    own = torch.zeros_like(plain)
    entries = plain.view(-1, 2, kv_heads, HEAD_DIM)
    ops.write_kv(entries[:, 0], entries[:, 1], own, torch.arange(len(entries)))
    return own, plain


def alone(batch: PagedBatch, request: int) -> PagedBatch:
    """Give one request's part of a batch."""
    one = slice(request, request + 1)
    return PagedBatch(batch.slots[one], batch.tables[one], batch.counts[one], batch.lengths[one], batch.block_size)


families = st.lists(
    st.lists(st.tuples(st.integers(0, 800), st.integers(1, 800)), min_size=1, max_size=7), min_size=1, max_size=3
)


@settings(max_examples=60, deadline=None)
@given(
    families=families,
    block_size=st.sampled_from([16, 32, 64, 256, 48, 512]),
    heads=st.sampled_from([(9, 3), (4, 4), (6, 1), (4, 2), (7, 1), (12, 1)]),
    window=st.sampled_from([None, None, 100, 300]),
    several=st.sampled_from([0, 5]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_each_sees_what_it_would_alone(
    ops: Ops,
    families: list[Family],
    block_size: int,
    heads: tuple[int, int],
    window: int | None,
    several: int,
    dtype: torch.dtype,
) -> None:
    batch, blocks = laid(families, block_size, several)
    query = random(int(batch.counts.sum()), heads[0], HEAD_DIM).to(dtype)
    cache, _ = filled(ops, blocks, block_size, heads[1], dtype)
    together = ops.attention(batch, SCALE, window)(query, cache)
    for i in range(batch.singles):
        by_itself = ops.attention(alone(batch, i), SCALE, window)(query[i : i + 1], cache)
        assert torch.equal(by_itself[0], together[i]), i


@pytest.mark.parametrize("heads", [(9, 3), (4, 4)])
@pytest.mark.parametrize("block_size", [16, 64])
def test_it_is_what_attention_is_defined_as(ops: Ops, heads: tuple[int, int], block_size: int) -> None:
    shared = [(0, 2 * SPAN + 20), *((2 * SPAN + 7, 2 * SPAN + n) for n in range(1, 9)), (SPAN + 40, 2 * SPAN + 5)]
    batch, blocks = laid([shared, [(0, 30)]], block_size, 0)
    query = random(len(batch.counts), heads[0], HEAD_DIM)
    cache, plain = filled(ops, blocks, block_size, heads[1], torch.float32)
    out = ops.attention(batch, SCALE)(query, cache)
    torch.testing.assert_close(out, dense_attention(query, plain, batch), rtol=1e-5, atol=1e-5)


def test_blocks_in_another_order_are_another_beginning(ops: Ops) -> None:
    batch, blocks = laid([[(0, 2 * SPAN), *([(2 * SPAN, 2 * SPAN)] * 5)]], 16, 0)
    for request in range(1, 6):  # the last block of each span stays where it is
        batch.tables[request, :15] = batch.tables[request, :15].roll(request)
    query = random(6, 4, HEAD_DIM)
    cache, plain = filled(ops, blocks, 16, 2, torch.float32)
    out = ops.attention(batch, SCALE)(query, cache)
    torch.testing.assert_close(out, dense_attention(query, plain, batch), rtol=1e-5, atol=1e-5)
