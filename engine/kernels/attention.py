"""Triton kernel for decoding: one token of each request attends to its blocks where they lie.

Dao et al. 2022, "FlashAttention", arXiv 2205.14135, for the running softmax. Reduction order: a program walks one
request's blocks from first to last, whatever else is in the batch.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton reads a kernel's parameters as pointers and scalars; its types are none that Python has

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _decode_kernel(
    q_ptr, cache_ptr, table_ptr, length_ptr, out_ptr, q_stride, table_stride, block_stride, entry_stride, value_offset,
    scale, window, cap, n_shared, n_dim, block_size, SHARED: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    i_request = tl.program_id(0).to(tl.int64)
    i_kv = tl.program_id(1).to(tl.int64)
    o_shared, o_key, o_dim = tl.arange(0, SHARED), tl.arange(0, KEYS), tl.arange(0, DIM)
    m_dim = o_dim < n_dim
    m_q = (o_shared < n_shared)[:, None] & m_dim[None, :]
    length = tl.load(length_ptr + i_request)
    first = tl.maximum(length - window, 0) if WINDOWED else length * 0  # the first key that is seen

    o_q = ((i_kv * n_shared + o_shared) * n_dim)[:, None] + o_dim[None, :]
    b_q = tl.load(q_ptr + i_request * q_stride + o_q, mask=m_q, other=0.0).to(tl.float32) * scale  # [SHARED, DIM]
    b_most = tl.full([SHARED], float("-inf"), tl.float32)
    b_mass = tl.zeros([SHARED], tl.float32)
    b_sum = tl.zeros([SHARED, DIM], tl.float32)

    for i_block in range(first // block_size, tl.cdiv(length, block_size)):
        block = tl.load(table_ptr + i_request * table_stride + i_block).to(tl.int64)
        o_place = i_block * block_size + o_key
        m_key = (o_key < block_size) & (o_place >= first) & (o_place < length)
        entries = cache_ptr + block * block_stride + i_kv * n_dim + o_key[:, None] * entry_stride + o_dim[None, :]
        m_entry = m_key[:, None] & m_dim[None, :]
        b_key = tl.load(entries, mask=m_entry, other=0.0).to(tl.float32)  # [KEYS, DIM]
        b_value = tl.load(entries + value_offset, mask=m_entry, other=0.0).to(tl.float32)  # [KEYS, DIM]

        # few queries share a key, too few for a matrix product: decoding waits for memory anyway
        b_score = tl.sum(b_q[:, None, :] * b_key[None, :, :], axis=2)  # [SHARED, KEYS]
        if CAPPED:
            b_score = cap * (2 * tl.sigmoid(2 * b_score / cap) - 1)  # cap * tanh(score / cap)
        b_score = tl.where(m_key[None, :], b_score, float("-inf"))
        b_new = tl.maximum(b_most, tl.max(b_score, axis=1))
        b_weight = tl.exp(b_score - b_new[:, None])
        b_keep = tl.exp(b_most - b_new)
        b_mass = b_mass * b_keep + tl.sum(b_weight, axis=1)
        b_sum = b_sum * b_keep[:, None] + tl.sum(b_weight[:, :, None] * b_value[None, :, :], axis=1)
        b_most = b_new

    b_out = b_sum / b_mass[:, None]
    o_out = i_request * tl.num_programs(1) * n_shared * n_dim + o_q
    tl.store(out_ptr + o_out, b_out.to(out_ptr.dtype.element_ty), mask=m_q)


def decode(
    query: Tensor, cache: Tensor, tables: Tensor, lengths: Tensor, scale: float, window: int | None, cap: float | None
) -> Tensor:
    """Attend with one token per request.

    Args:
        query: [requests, heads, head_dim]; the last two dimensions must be contiguous.
        cache: [blocks, block_size, 2, kv_heads, head_dim], contiguous.
        tables: int64 [requests, widest].
        lengths: int64 [requests].
        scale: Applied to scores.
        window: How many keys are seen, the last ones; all if `None`.
        cap: What scores are kept below by a tangent, if anything.

    Returns:
        [requests, heads, head_dim].
    """
    requests, heads, head_dim = query.shape
    _, block_size, _, kv_heads, _ = cache.shape
    shared = heads // kv_heads
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    _decode_kernel[(requests, kv_heads)](
        *(query, cache, tables, lengths, out, query.stride(0), tables.stride(0)),
        *(cache.stride(0), cache.stride(1), cache.stride(2), scale, window or 0, cap or 1.0),
        *(shared, head_dim, block_size),
        SHARED=triton.next_power_of_2(shared),
        KEYS=triton.next_power_of_2(block_size),
        DIM=triton.next_power_of_2(head_dim),
        WINDOWED=window is not None,
        CAPPED=cap is not None,
    )
    return out
