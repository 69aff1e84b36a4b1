"""Triton kernel for chunks of prompts: many tokens of each request attend to its blocks where they lie.

A program computes the query heads that share a key head (Ainslie et al. 2023, arXiv 2305.13245), for as many tokens of
one request as fit into a tile whose height is fixed for a model. Reduction order: a token's keys in steps that begin at
multiples of a number that is fixed likewise; a step of which it sees nothing adds a zero. So its numbers depend neither
on the chunk it is computed in nor on other requests.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton reads a kernel's parameters as pointers and scalars; its types are none that Python has

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.batch import Integers
from engine.kernels.gpu.keys import Look, attended, averaged
from engine.kernels.gpu.products import widened

_LITTLE: Final = {(8, 6), (8, 9), (12, 0), (12, 1)}
"""Devices of which a program has 99 KiB of shared memory; on an A100 it has 163 KiB, and on others more."""


@cache
def _widest(device: torch.device) -> int:
    """Bytes of a head up to which a high tile, its keys and their values fit into a multiprocessor."""
    little = device.type == "cuda" and torch.cuda.get_device_capability(device) in _LITTLE
    return 256 if little else 512


def tile_for(head: Tensor, shared: int) -> tuple[int, int]:
    """Say how high a tile is, of tokens times the `shared` heads of a key, and how many keys it looks at together.

    `head` is anything whose last dimension is a head.
    """
    wide = _padded(head.shape[-1]) * head.itemsize > _widest(head.device)
    rows, keys = (64, 32) if wide else (128, 64)
    return max(rows, triton.next_power_of_2(shared)), keys


def _padded(head_dim: int) -> int:
    """What a matrix product takes for so many."""
    return max(16, int(triton.next_power_of_2(head_dim)))


@triton.jit(do_not_specialize=["table_stride"])
def _prefill_kernel(
    q_ptr, cache_ptr, table_ptr, tile_ptr, out_ptr, q_stride, table_stride, entry_stride, value_offset, scale, window,
    cap, n_heads, n_shared, n_dim, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    DIM: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    i_kv = tl.program_id(1)
    tile = tile_ptr + tl.program_id(0) * 4
    i_request, i_token = tl.load(tile).to(tl.int64), tl.load(tile + 1).to(tl.int64)
    n_tokens, position = tl.load(tile + 2).to(tl.int32), tl.load(tile + 3).to(tl.int32)

    o_row, o_key, o_dim = tl.arange(0, ROWS), tl.arange(0, KEYS), tl.arange(0, DIM)
    m_dim = o_dim < n_dim
    o_own = o_row // n_shared  # which token of the tile
    m_row = (o_own < n_tokens)[:, None] & m_dim[None, :]
    o_head = i_kv * n_shared + o_row % n_shared
    q_rows = q_ptr + (i_token + o_own) * q_stride + o_head * n_dim
    b_q = tl.load(q_rows[:, None] + o_dim[None, :], mask=m_row, other=0.0)  # [ROWS, DIM]
    end = position + n_tokens
    first = tl.maximum(position + 1 - window, 0) // KEYS * KEYS if WINDOWED else position * 0
    state = (
        tl.full([ROWS], float("-inf"), tl.float32),
        tl.zeros([ROWS], tl.float32),
        tl.zeros([ROWS, DIM], tl.float32),
    )
    o_last = (position + o_own)[:, None]
    for i_key in range(first, end, KEYS):
        o_place = i_key + o_key
        m_key = o_place < end
        m_seen = o_place[None, :] <= o_last
        if WINDOWED:  # blocks wholly before the window are others' by now
            m_key = m_key & (o_place > position - window)
            m_seen = m_seen & (o_place[None, :] > o_last - window)
        state = attended(
            b_q, state, cache_ptr + i_kv * n_dim, table_ptr + i_request * table_stride, o_place, m_key, o_dim, m_dim,
            m_seen, entry_stride, value_offset, scale, cap, BLOCK_SIZE, CAPPED, WIDE,
        )  # fmt: skip
    _, b_mass, b_sum = state

    # rows beyond the last token have seen what they should not; they are not stored
    o_out = ((i_token + o_own) * n_heads + o_head)[:, None] * n_dim + o_dim[None, :]
    tl.store(out_ptr + o_out, averaged(b_mass, b_sum).to(out_ptr.dtype.element_ty), mask=m_row)


def cut(counts: Integers, lengths: Integers, each: int, skipped: int = 0) -> Integers:
    """Cut chunks of `counts` tokens, the last ones of `lengths`, into tiles of `each`; `skipped` requests are left out.

    Returns:
        int64 [tiles, 4]: request, index of the first token in the flat batch, tokens, position of the first token.
        Those that see most come first, so that no long one is begun last.
    """
    pieces = -(-counts // each)  # [requests]
    pieces[:skipped] = 0
    request = np.repeat(np.arange(len(counts)), pieces)
    offset = (np.arange(len(request)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * each
    begins = np.cumsum(counts) - counts
    found = np.stack(
        (
            request,
            begins[request] + offset,
            np.minimum(each, counts[request] - offset),
            (lengths - counts)[request] + offset,
        ),
        axis=1,
    )
    return found[np.argsort(-found[:, 3], kind="stable")]


def prefill(query: Tensor, cache: Tensor, tables: Tensor, tiles: Tensor, look: Look, out: Tensor) -> None:
    """Attend with chunks of several requests, in one launch.

    Args:
        query: [tokens, heads, head_dim]; the last two dimensions must be contiguous.
        cache: [blocks, block_size, 2, kv_heads, head_dim], contiguous; it holds the chunks' own keys already.
        tables: int64 [requests, widest].
        tiles: What `cut` gives for the tokens that fit by `tile_for`, on the device.
        look: What of the keys is seen, and how.
        out: Like `query`, contiguous; the rows that tiles name are written.
    """
    _, heads, head_dim = query.shape
    _, block_size, _, kv_heads, _ = cache.shape
    rows, keys = tile_for(query, heads // kv_heads)
    _prefill_kernel[(len(tiles), kv_heads)](
        *(query, cache, tables, tiles, out, query.stride(0), tables.stride(0), cache.stride(1), cache.stride(2)),
        *(look.scale, look.window or 0, look.cap or 1.0, heads, heads // kv_heads, head_dim),
        BLOCK_SIZE=block_size,
        ROWS=rows,
        KEYS=keys,
        DIM=_padded(head_dim),
        WINDOWED=look.window is not None,
        CAPPED=look.cap is not None,
        WIDE=widened(query.dtype),
        num_warps=8,
        num_stages=2,
    )
