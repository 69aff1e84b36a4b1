"""Triton kernels for decoding: one token of each request attends to its blocks where they lie.

A request's keys are parted into spans that begin at multiples of a fixed number, and a program walks one span (Dao et
al. 2023, "Flash-Decoding for long-context inference"); a second kernel puts the spans together. Reduction order: keys
in order within a span, then spans in order. How many spans there are depends on the request's own length alone, so a
token's numbers do not depend on what else is in the batch; a launch for longer requests only has more programs that
find nothing to do.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton reads a kernel's parameters as pointers and scalars; its types are none that Python has

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.gpu.keys import Look, attended, averaged
from engine.kernels.gpu.products import widened

SPAN: Final = 256
"""Keys that one program walks: the split that never depends on the batch."""

_KEYS: Final = 64
"""Keys that are looked at together."""

_SPANS: Final = 16
"""Spans that are put together at once."""

_LEAST_ROWS: Final = 16
"""What a matrix product takes at least."""


@triton.jit(do_not_specialize=["table_stride"])
def _span_kernel(
    q_ptr, cache_ptr, table_ptr, length_ptr, out_ptr, sum_ptr, most_ptr, mass_ptr, q_stride, table_stride,
    entry_stride, value_offset, scale, window, cap, n_shared, n_dim, BLOCK_SIZE: tl.constexpr, SPAN: tl.constexpr,
    SHARED: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr,
    SPLIT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    i_request = tl.program_id(0).to(tl.int64)
    i_kv = tl.program_id(1)
    i_span = tl.program_id(2)
    n_kv, n_spans = tl.num_programs(1), tl.num_programs(2)
    length = tl.load(length_ptr + i_request).to(tl.int32)
    first = tl.maximum(length - window, 0) if WINDOWED else length * 0  # the first key that is seen
    begin, end = i_span * SPAN, tl.minimum(length, (i_span + 1) * SPAN)
    if SPLIT and (begin >= end or end <= first):
        return

    o_shared, o_key, o_dim = tl.arange(0, SHARED), tl.arange(0, KEYS), tl.arange(0, DIM)
    m_dim = o_dim < n_dim
    m_q = (o_shared < n_shared)[:, None] & m_dim[None, :]
    o_q = (i_kv * n_shared + o_shared)[:, None] * n_dim + o_dim[None, :]
    b_q = tl.load(q_ptr + i_request * q_stride + o_q, mask=m_q, other=0.0)  # [SHARED, DIM]
    state = (
        tl.full([SHARED], float("-inf"), tl.float32),
        tl.zeros([SHARED], tl.float32),
        tl.zeros([SHARED, DIM], tl.float32),
    )
    for i_key in range(tl.maximum(begin, first // KEYS * KEYS), end, KEYS):
        o_place = i_key + o_key
        m_key = (o_place >= first) & (o_place < end)
        state = attended(
            b_q, state, cache_ptr + i_kv * n_dim, table_ptr + i_request * table_stride, o_place, m_key, o_dim, m_dim,
            m_key[None, :], entry_stride, value_offset, scale, cap, BLOCK_SIZE, CAPPED, WIDE,
        )  # fmt: skip
    b_most, b_mass, b_sum = state

    if SPLIT:
        o_part = ((i_request * n_kv + i_kv) * n_spans + i_span) * n_shared + o_shared
        m_shared = o_shared < n_shared
        tl.store(sum_ptr + o_part[:, None] * n_dim + o_dim[None, :], b_sum, mask=m_q)
        tl.store(most_ptr + o_part, b_most, mask=m_shared)
        tl.store(mass_ptr + o_part, b_mass, mask=m_shared)
    else:
        o_out = i_request * n_kv * n_shared * n_dim + o_q
        tl.store(out_ptr + o_out, averaged(b_mass, b_sum).to(out_ptr.dtype.element_ty), mask=m_q)


@triton.jit(do_not_specialize=["n_spans"])
def _join_kernel(
    sum_ptr, most_ptr, mass_ptr, length_ptr, out_ptr, window, n_shared, n_dim, n_spans, SPAN: tl.constexpr,
    SPANS: tl.constexpr, DIM: tl.constexpr, WINDOWED: tl.constexpr,
):  # fmt: skip
    i_request = tl.program_id(0).to(tl.int64)
    i_head = tl.program_id(1)
    n_heads = tl.num_programs(1)
    i_kv, i_shared = i_head // n_shared, i_head % n_shared
    length = tl.load(length_ptr + i_request).to(tl.int32)
    first = tl.maximum(length - window, 0) // SPAN if WINDOWED else length * 0  # the first span that was walked
    last = tl.cdiv(length, SPAN)
    o_span, o_dim = tl.arange(0, SPANS), tl.arange(0, DIM)
    parts = (i_request * (n_heads // n_shared) + i_kv) * n_spans * n_shared + i_shared
    b_most = tl.full([SPANS], float("-inf"), tl.float32)
    for i_span in range(first // SPANS * SPANS, last, SPANS):
        m_span = (i_span + o_span >= first) & (i_span + o_span < last)
        b_own = tl.load(most_ptr + parts + (i_span + o_span) * n_shared, mask=m_span, other=float("-inf"))
        b_most = tl.maximum(b_most, b_own)
    most = tl.max(b_most, axis=0)

    b_sum = tl.zeros([DIM], tl.float32)
    mass = 0.0
    # spans are taken together from fixed places, and one that is not there adds a zero: the order is always the same
    for i_span in range(first // SPANS * SPANS, last, SPANS):
        m_span = (i_span + o_span >= first) & (i_span + o_span < last)
        o_part = parts + (i_span + o_span) * n_shared
        b_keep = tl.exp(tl.load(most_ptr + o_part, mask=m_span, other=float("-inf")) - most)  # [SPANS]
        b_mass = tl.load(mass_ptr + o_part, mask=m_span, other=0.0)
        m_part = m_span[:, None] & (o_dim < n_dim)[None, :]
        b_part = tl.load(sum_ptr + o_part[:, None] * n_dim + o_dim[None, :], mask=m_part, other=0.0)  # [SPANS, DIM]
        mass += tl.sum(b_mass * b_keep, axis=0)
        b_sum += tl.sum(b_part * b_keep[:, None], axis=0)
    b_out = b_sum / tl.where(mass > 0, mass, 1.0)
    o_out = (i_request * n_heads + i_head) * n_dim + o_dim
    tl.store(out_ptr + o_out, b_out.to(out_ptr.dtype.element_ty), mask=o_dim < n_dim)


_MOST_PARTS: Final = 1 << 26
"""Numbers of spans that are held at once; requests that would make more are launched one lot after the other."""


def decode(
    query: Tensor, cache: Tensor, tables: Tensor, lengths: Tensor, longest: int, look: Look, out: Tensor
) -> None:
    """Attend with one token per request.

    Args:
        query: [at least as many tokens as requests, heads, head_dim]; the last two dimensions must be contiguous.
        cache: [blocks, block_size, 2, kv_heads, head_dim], contiguous.
        tables: int64 [at least as many as requests, widest].
        lengths: int64 [requests], on the device; a row of length 0 stands for nobody, and gets zeros.
        longest: No request is longer. It says how many programs are started, and changes no number.
        look: What of the keys is seen, and how.
        out: Like `query`, contiguous; its first rows are written.
    """
    _, heads, head_dim = query.shape
    each = heads * head_dim * max(1, triton.cdiv(longest, SPAN))
    lot = max(1, _MOST_PARTS // each)
    for first in range(0, len(lengths), lot):
        rows = slice(first, first + lot)
        _decode_lot(query[rows], cache, tables[rows], lengths[rows], longest, look, out[rows])


def _decode_lot(
    query: Tensor, cache: Tensor, tables: Tensor, lengths: Tensor, longest: int, look: Look, out: Tensor
) -> None:
    requests = len(lengths)
    _, heads, head_dim = query.shape
    _, block_size, _, kv_heads, _ = cache.shape
    shared, spans = heads // kv_heads, max(1, triton.cdiv(longest, SPAN))
    window, cap = look.window or 0, look.cap or 1.0
    parts = (requests, kv_heads, spans, shared) if spans > 1 else (1, 1, 1, 1)
    sums = torch.empty((*parts, head_dim), dtype=torch.float32, device=query.device)
    most, mass = (torch.empty(parts, dtype=torch.float32, device=query.device) for _ in range(2))
    dim = max(_LEAST_ROWS, triton.next_power_of_2(head_dim))
    _span_kernel[(requests, kv_heads, spans)](
        *(query, cache, tables, lengths, out, sums, most, mass, query.stride(0), tables.stride(0)),
        *(cache.stride(1), cache.stride(2), look.scale, window, cap, shared, head_dim),
        BLOCK_SIZE=block_size,
        SPAN=SPAN,
        SHARED=max(_LEAST_ROWS, triton.next_power_of_2(shared)),
        KEYS=_KEYS,
        DIM=dim,
        WINDOWED=look.window is not None,
        CAPPED=look.cap is not None,
        SPLIT=spans > 1,
        WIDE=widened(query.dtype),
        num_warps=4,
        num_stages=3,
    )
    if spans > 1:
        _join_kernel[(requests, heads)](
            *(sums, most, mass, lengths, out, window, shared, head_dim, spans),
            SPAN=SPAN,
            SPANS=_SPANS,
            DIM=dim,
            WINDOWED=look.window is not None,
            num_warps=2,
        )
