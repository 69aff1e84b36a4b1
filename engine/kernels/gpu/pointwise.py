"""Triton kernels over rows: normalisation, gates, and the turning of queries and keys.

Reduction order: a whole row lies in one block, so its sum does not depend on the batch, and results do not either.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton reads a kernel's parameters as pointers and scalars; its types are none that Python has

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.gpu.products import sigmoid
from engine.kernels.products import Activation

_GATED: Final = 1024
"""Entries of a row that one program gates."""


@triton.jit
def _rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr, total_ptr, token_stride, head_stride, residual_stride, weight_stride,
    n_heads, n_cols, eps, ADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i_token = tl.program_id(0).to(tl.int64)
    i_head = tl.program_id(1).to(tl.int64)
    o_col = tl.arange(0, BLOCK)
    m_col = o_col < n_cols
    o_out = (i_token * n_heads + i_head) * n_cols + o_col
    b_x = tl.load(x_ptr + i_token * token_stride + i_head * head_stride + o_col, mask=m_col, other=0.0)  # [BLOCK]
    if ADDED:
        b_residual = tl.load(residual_ptr + i_token * residual_stride + o_col, mask=m_col, other=0.0)  # [BLOCK]
        # rounded as it is stored: the next layer adds to what is stored
        b_x = (b_x.to(tl.float32) + b_residual.to(tl.float32)).to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + o_out, b_x, mask=m_col)
    b_wide = b_x.to(tl.float32)
    b_weight = tl.load(weight_ptr + i_head * weight_stride + o_col, mask=m_col, other=0.0).to(tl.float32)  # [BLOCK]
    mean_square = tl.sum(b_wide * b_wide, axis=0) / n_cols
    b_out = b_wide * tl.rsqrt(mean_square + eps) * b_weight
    tl.store(out_ptr + o_out, b_out.to(out_ptr.dtype.element_ty), mask=m_col)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As `engine.kernels.ops.Ops.rms_norm`; the last dimension of `x` must be contiguous."""
    spread = x if x.dim() == 3 else x.unsqueeze(1)  # [tokens, heads, n]
    tokens, heads, width = spread.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _rms_norm_kernel[(tokens, heads)](
        *(spread, spread, weight, out, out, spread.stride(0), spread.stride(1), 0),
        *(weight.stride(0) if weight.dim() == 2 else 0, heads, width, eps),
        ADDED=False,
        BLOCK=triton.next_power_of_2(width),
        num_warps=_warps(width),
    )
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `engine.kernels.ops.Ops.add_rms_norm`, for [tokens, n] and a weight [n]."""
    tokens, width = x.shape
    out, total = (torch.empty((tokens, width), dtype=x.dtype, device=x.device) for _ in range(2))
    _rms_norm_kernel[(tokens, 1)](
        *(x, residual, weight, out, total, x.stride(0), 0, residual.stride(0), 0, 1, width, eps),
        ADDED=True,
        BLOCK=triton.next_power_of_2(width),
        num_warps=_warps(width),
    )
    return out, total


@triton.jit
def bent(b_x, SILU: tl.constexpr):
    """What a gate makes of numbers in float32."""
    # (1 + tanh(x)) / 2 is sigmoid(2x)
    b_inner = b_x if SILU else 2 * 0.7978845608028654 * (b_x + 0.044715 * b_x * b_x * b_x)
    return b_x * sigmoid(b_inner)


@triton.jit
def _gate_kernel(x_ptr, out_ptr, x_stride, n_cols, SILU: tl.constexpr, BLOCK: tl.constexpr):
    i_token = tl.program_id(0).to(tl.int64)
    o_col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_col = o_col < n_cols
    x_row = x_ptr + i_token * x_stride + o_col
    b_gate = tl.load(x_row, mask=m_col, other=0.0).to(tl.float32)  # [BLOCK]
    b_up = tl.load(x_row + n_cols, mask=m_col, other=0.0).to(tl.float32)  # [BLOCK]
    tl.store(out_ptr + i_token * n_cols + o_col, (bent(b_gate, SILU) * b_up).to(out_ptr.dtype.element_ty), mask=m_col)


def gate(x: Tensor, activation: Activation) -> Tensor:
    """Gate the second half of rows by the first: [tokens, 2n] -> [tokens, n]; rows must be contiguous."""
    tokens, width = x.shape[0], x.shape[1] // 2
    out = torch.empty((tokens, width), dtype=x.dtype, device=x.device)
    block = min(_GATED, triton.next_power_of_2(width))
    _gate_kernel[(tokens, triton.cdiv(width, block))](
        x, out, x.stride(0), width, SILU=activation == "silu", BLOCK=block, num_warps=_warps(block)
    )
    return out


@triton.jit
def _turn_kernel(
    qk_ptr, value_ptr, cos_ptr, sin_ptr, slot_ptr, out_ptr, cache_ptr, qk_token, qk_head, value_token, value_head,
    angle_stride, entry_stride, n_heads, n_kv, n_dim, n_half, n_shared, SHARED: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    i_token = tl.program_id(0).to(tl.int64)
    i_kv = tl.program_id(1)
    o_dim, o_row = tl.arange(0, DIM), tl.arange(0, SHARED)
    m_dim = o_dim < n_dim
    m_turned = o_dim < 2 * n_half
    # each entry's partner in its pair; what is beyond does not turn
    o_pair = tl.where(o_dim < n_half, o_dim + n_half, o_dim - n_half)
    b_cos = tl.load(cos_ptr + i_token * angle_stride + o_dim, mask=m_turned, other=1.0).to(tl.float32)  # [DIM]
    b_sin = tl.load(sin_ptr + i_token * angle_stride + o_dim, mask=m_turned, other=0.0).to(tl.float32)  # [DIM]

    # the query heads that share this key head, then the key head itself
    m_row = o_row <= n_shared
    o_head = tl.where(o_row < n_shared, i_kv * n_shared + o_row, n_heads + i_kv)
    rows = qk_ptr + i_token * qk_token + (o_head * qk_head)[:, None]
    b_x = tl.load(rows + o_dim[None, :], mask=m_row[:, None] & m_dim[None, :], other=0.0).to(tl.float32)
    b_pair = tl.load(rows + o_pair[None, :], mask=m_row[:, None] & m_turned[None, :], other=0.0).to(tl.float32)
    b_out = b_x * b_cos[None, :] + b_pair * b_sin[None, :]  # [SHARED, DIM]
    o_out = (i_token * n_heads + o_head)[:, None] * n_dim + o_dim[None, :]
    m_query = (o_row < n_shared)[:, None] & m_dim[None, :]
    tl.store(out_ptr + o_out, b_out.to(out_ptr.dtype.element_ty), mask=m_query)

    slot = tl.load(slot_ptr + i_token)
    kept = slot >= 0
    entry = cache_ptr + slot * entry_stride + i_kv * n_dim + o_dim
    m_key = (o_row == n_shared)[:, None] & m_dim[None, :] & kept
    tl.store(entry[None, :] + (o_row * 0)[:, None], b_out.to(cache_ptr.dtype.element_ty), mask=m_key)
    b_value = tl.load(value_ptr + i_token * value_token + i_kv * value_head + o_dim, mask=m_dim, other=0.0)  # [DIM]
    tl.store(entry + n_kv * n_dim, b_value.to(cache_ptr.dtype.element_ty), mask=m_dim & kept)


def turn_and_store(qk: Tensor, value: Tensor, angles: tuple[Tensor, Tensor], cache: Tensor, slots: Tensor) -> Tensor:
    """As `engine.kernels.ops.Ops.turn_and_store`; a slot below 0 stores nothing. Heads must be contiguous."""
    tokens, turned, head_dim = qk.shape
    kv_heads = value.shape[1]
    heads = turned - kv_heads
    cos, sin = angles
    out = torch.empty((tokens, heads, head_dim), dtype=qk.dtype, device=qk.device)
    shared = heads // kv_heads
    rows, dim = triton.next_power_of_2(shared + 1), triton.next_power_of_2(head_dim)
    _turn_kernel[(tokens, kv_heads)](
        *(qk, value, cos, sin, slots, out, cache, qk.stride(0), qk.stride(1), value.stride(0), value.stride(1)),
        *(cos.stride(0), 2 * kv_heads * head_dim, heads, kv_heads, head_dim, cos.shape[-1] // 2, shared),
        SHARED=rows,
        DIM=dim,
        num_warps=1 << min(3, max(1, (rows * dim).bit_length() - 11)),  # no more than some 32 numbers a thread
    )
    return out


def _warps(width: int) -> int:
    """How many warps share a row of so many entries."""
    return 1 << min(3, max(0, (width - 1).bit_length() - 8))
