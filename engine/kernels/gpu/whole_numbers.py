"""Triton kernels for products in 8 bits on both sides: rows are rounded, multiplied as whole numbers, and scaled.

Reduction order: of no account. Sums of whole numbers are exact, so a row's numbers depend on itself alone, whatever the
tiling, and where a row is cut into parts these may be added in the order in which they are done.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton reads a kernel's parameters as pointers and scalars; its types are none that Python has

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.gpu.products import INTERPRETED
from engine.kernels.gpu.quantized import Tiling, tiling_for
from engine.kernels.packing import plain
from engine.kernels.weights import Int8Weight


@triton.jit
def _round_kernel(x_ptr, out_ptr, step_ptr, x_stride, n_cols, BLOCK: tl.constexpr):
    i_row = tl.program_id(0).to(tl.int64)
    largest, broken = 0.0, 0
    for i_col in range(0, n_cols, BLOCK):
        o_col = i_col + tl.arange(0, BLOCK)
        b_x = tl.load(x_ptr + i_row * x_stride + o_col, mask=o_col < n_cols, other=0.0).to(tl.float32)  # [BLOCK]
        m_finite = tl.abs(b_x) < float("inf")  # nor is it of what is no number
        largest = tl.maximum(largest, tl.max(tl.where(m_finite, tl.abs(b_x), 0.0), axis=0))
        broken += tl.sum((m_finite == 0).to(tl.int32), axis=0)
    many = tl.where(largest > 0, 127.0 / tl.where(largest > 0, largest, 1.0), 0.0)
    for i_col in range(0, n_cols, BLOCK):
        o_col = i_col + tl.arange(0, BLOCK)
        b_x = tl.load(x_ptr + i_row * x_stride + o_col, mask=o_col < n_cols, other=0.0).to(tl.float32)  # [BLOCK]
        b_x = tl.where(tl.abs(b_x) < float("inf"), b_x, 0.0)
        # beside this number there are no halves: the sum is rounded to an even one
        b_steps = (b_x * many + 12582912.0) - 12582912.0
        b_steps = tl.minimum(tl.maximum(b_steps, -127.0), 127.0)
        tl.store(out_ptr + i_row * n_cols + o_col, b_steps.to(tl.int8), mask=o_col < n_cols)
    tl.store(step_ptr + i_row, tl.where(broken > 0, float("nan"), largest / 127.0))


@triton.jit(do_not_specialize=["n_rows"])
def _product_kernel(
    x_ptr, w_ptr, step_ptr, scale_ptr, bias_ptr, sum_ptr, out_ptr, n_rows, n_out, n_in, n_each, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PARTED: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    n_high = tl.cdiv(n_rows, ROWS)
    o_row = tl.program_id(0) % n_high * ROWS + tl.arange(0, ROWS)
    o_column = tl.program_id(0) // n_high * COLUMNS + tl.arange(0, COLUMNS)
    m_row, m_column = o_row < n_rows, o_column < n_out
    begin = tl.program_id(1) * n_each
    end = tl.minimum(begin + n_each, n_in)
    x_rows, w_rows = x_ptr + o_row.to(tl.int64) * n_in, w_ptr + o_column.to(tl.int64) * n_in
    b_sum = tl.zeros([ROWS, COLUMNS], tl.int32)
    for i_in in range(begin, end, DEPTH):
        o_in = i_in + tl.arange(0, DEPTH)
        m_in = (o_in < end)[None, :]
        b_x = tl.load(x_rows[:, None] + o_in[None, :], mask=m_row[:, None] & m_in, other=0)  # [ROWS, DEPTH]
        b_w = tl.load(w_rows[:, None] + o_in[None, :], mask=m_column[:, None] & m_in, other=0)  # [COLUMNS, DEPTH]
        b_sum += tl.dot(b_x, tl.trans(b_w), out_dtype=tl.int32)
    o_out = o_row.to(tl.int64)[:, None] * n_out + o_column[None, :]
    m_out = m_row[:, None] & m_column[None, :]
    if PARTED:
        tl.atomic_add(sum_ptr + o_out, b_sum, mask=m_out, sem="relaxed")
    else:
        b_step = tl.load(step_ptr + o_row, mask=m_row, other=0.0)
        b_scale = tl.load(scale_ptr + o_column, mask=m_column, other=0.0)
        b_out = b_sum.to(tl.float32) * (b_step[:, None] * b_scale[None, :])
        if BIASED:
            b_out += tl.load(bias_ptr + o_column, mask=m_column, other=0.0).to(tl.float32)[None, :]
        tl.store(out_ptr + o_out, b_out.to(out_ptr.dtype.element_ty), mask=m_out)


@triton.jit
def _scale_kernel(
    sum_ptr, step_ptr, scale_ptr, bias_ptr, out_ptr, n_all, n_out, BIASED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    o_all = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_all = o_all < n_all
    b_step = tl.load(step_ptr + o_all // n_out, mask=m_all, other=0.0)
    b_scale = tl.load(scale_ptr + o_all % n_out, mask=m_all, other=0.0)
    b_out = tl.load(sum_ptr + o_all, mask=m_all, other=0).to(tl.float32) * (b_step * b_scale)
    if BIASED:
        b_out += tl.load(bias_ptr + o_all % n_out, mask=m_all, other=0.0).to(tl.float32)
    tl.store(out_ptr + o_all, b_out.to(out_ptr.dtype.element_ty), mask=m_all)


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """As `engine.kernels.weights.in_8_bits`; rows must be contiguous."""
    rows, width = x.shape
    numbers = torch.empty((rows, width), dtype=torch.int8, device=x.device)
    steps = torch.empty((rows,), dtype=torch.float32, device=x.device)
    _round_kernel[(rows,)](x, numbers, steps, x.stride(0), width, BLOCK=min(4096, triton.next_power_of_2(width)))
    return numbers, steps


def linear_in_8_bits(
    x: Tensor, weight: Int8Weight, bias: Tensor | None, dtype: torch.dtype, tiling: Tiling | None = None
) -> Tensor:
    """Round rows [tokens, in] and multiply them by the transposed weight [out, in]; -> [tokens, out] in `dtype`."""
    numbers, steps = rounded(x)
    rows, (out_width, width) = len(x), weight.numbers.shape
    tiling = tiling or tiling_for(rows, plain(weight.numbers))
    parted, depth = tiling.parts > 1, max(tiling.depth, 32)
    each = triton.cdiv(triton.cdiv(width, depth), tiling.parts) * depth
    # the interpreter cuts bits off where an accelerator rounds
    out = torch.empty((rows, out_width), dtype=torch.float32 if INTERPRETED else dtype, device=x.device)
    sums = torch.zeros((rows, out_width), dtype=torch.int32, device=x.device) if parted else numbers
    offsets = steps if bias is None else bias
    tiles = triton.cdiv(rows, tiling.rows) * triton.cdiv(out_width, tiling.columns)
    _product_kernel[(tiles, tiling.parts)](
        *(numbers, weight.numbers, steps, weight.scales, offsets, sums, out, rows, out_width, width, each),
        ROWS=tiling.rows,
        COLUMNS=tiling.columns,
        DEPTH=depth,
        PARTED=parted,
        BIASED=bias is not None,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )
    if parted:
        block = 1024
        _scale_kernel[(triton.cdiv(rows * out_width, block),)](
            *(sums, steps, weight.scales, offsets, out, rows * out_width, out_width),
            BIASED=bias is not None,
            BLOCK=block,
        )
    return out.to(dtype)
