"""Triton kernels for products with weights in few bits, or in the model's own format.

Entries become the format of `x` as they are read; scales are applied to float32 sums, group by group. Reduction order:
the depth of a row is cut into as many parts as its `Tiling` says, each summed in steps of fixed depth, and the parts
are added in order: by another kernel, or where there are rows enough by the same program. Under one tiling a row's
numbers do not depend on the rows beside it. `tiling_for` chooses by the number of rows, which is faster and gives other
last bits to other numbers of rows; `steady_tiling` does not.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton reads a kernel's parameters as pointers and scalars; its types are none that Python has

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.gpu.products import product, widened
from engine.kernels.packing import Packed

FORMATS: Final = {"plain": 0, "int8": 1, "fp8": 2, "int4": 3}
"""By what kernels are told."""

_PROGRAMS: Final = 256
"""How many programs a product with few rows is parted into, about: every multiprocessor reads all the time."""

_MANY: Final = 256
"""From so many rows on a program sums up all parts itself: there are programs enough."""

_NEIGHBOURS: Final = 8
"""Tiles of rows that take the same columns one after the other, while these are in the cache."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a product is parted among programs."""

    rows: int
    columns: int
    depth: int
    """What one step of a program multiplies; powers of two from 16."""
    parts: int = 1
    """Into which the depth of a row is cut."""
    warps: int = 4
    stages: int = 3


def tiling_for(rows: int, weight: Packed) -> Tiling:
    """Choose for so many rows."""
    # a step lies within a group
    deepest = 128 if weight.group == weight.width else gcd(weight.group, 128)
    if rows > 64:
        return Tiling(128, 128, min(64, deepest), warps=8)
    columns = 64
    steps = triton.cdiv(weight.width, deepest)
    parts = max(1, min(_PROGRAMS // triton.cdiv(weight.out, columns), steps // 4))
    return Tiling(max(16, triton.next_power_of_2(rows)), columns, deepest, parts)


def steady_tiling(weight: Packed) -> Tiling:
    """Choose for any number of rows."""
    depth = 64 if weight.group == weight.width else gcd(weight.group, 64)
    parts = max(1, min(_PROGRAMS // triton.cdiv(weight.out, 64), triton.cdiv(weight.width, depth) // 4))
    return Tiling(64, 64, depth, parts)


@triton.jit
def multiplied(
    x_rows, m_row, w_rows, scale_rows, zero_rows, m_column, n_in, begin, end, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, FORMAT: tl.constexpr, ZEROED: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """Sum x [ROWS] times weights [COLUMNS] from entry `begin` to `end`, where rows of both begin at given pointers."""
    b_sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    HALF: tl.constexpr = DEPTH // 2
    FORM: tl.constexpr = tl.float32 if WIDE else x_rows.dtype.element_ty
    for i_in in range(begin, end, DEPTH):
        if FORMAT == 3:
            o_half = tl.arange(0, HALF)
            o_byte = i_in // 2 + o_half
            o_low = i_in + o_half // 16 * 32 + o_half % 16
            m_low, m_high = o_low < end, o_low + 16 < end
            m_byte = m_column[:, None] & m_low[None, :]
            b_byte = tl.load(w_rows[:, None] + o_byte[None, :], mask=m_byte, other=0)  # [COLUMNS, HALF]
            if ZEROED:
                b_zero = tl.load(zero_rows + (i_in // GROUP if GROUP else 0), mask=m_column, other=0.0)[:, None]
            else:
                b_zero = 8.0
            b_low = ((b_byte & 15).to(tl.float32) - b_zero).to(FORM)
            b_high = ((b_byte >> 4).to(tl.float32) - b_zero).to(FORM)
            x_low = x_rows[:, None] + o_low[None, :]
            b_x = tl.load(x_low, mask=m_row[:, None] & m_low[None, :], other=0.0)  # [ROWS, HALF]
            b_y = tl.load(x_low + 16, mask=m_row[:, None] & m_high[None, :], other=0.0)
            b_part = product(b_x, tl.trans(b_low), WIDE) + product(b_y, tl.trans(b_high), WIDE)
        else:
            o_in = i_in + tl.arange(0, DEPTH)
            m_in = (o_in < end)[None, :]
            b_x = tl.load(x_rows[:, None] + o_in[None, :], mask=m_row[:, None] & m_in, other=0.0)  # [ROWS, DEPTH]
            b_w = tl.load(w_rows[:, None] + o_in[None, :], mask=m_column[:, None] & m_in, other=0.0)
            b_part = product(b_x, tl.trans(b_w.to(FORM)), WIDE)
        if GROUP:
            b_part *= tl.load(scale_rows + i_in // GROUP, mask=m_column, other=0.0)[None, :]
        b_sum += b_part
    if FORMAT != 0 and GROUP == 0:
        b_sum *= tl.load(scale_rows, mask=m_column, other=0.0)[None, :]
    return b_sum


@triton.jit(do_not_specialize=["n_rows"])
def _product_kernel(
    x_ptr, w_ptr, scale_ptr, zero_ptr, bias_ptr, out_ptr, x_stride, w_stride, scale_stride, n_rows, n_out, n_in,
    n_each, n_parts, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    FORMAT: tl.constexpr, ZEROED: tl.constexpr, BIASED: tl.constexpr, NEIGHBOURS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    # programs that read the same columns follow one another
    n_high, n_wide = tl.cdiv(n_rows, ROWS), tl.cdiv(n_out, COLUMNS)
    i_band = tl.program_id(0) // (NEIGHBOURS * n_wide) * NEIGHBOURS
    n_band = tl.minimum(n_high - i_band, NEIGHBOURS)
    i_within = tl.program_id(0) % (NEIGHBOURS * n_wide)
    i_row, i_column = i_band + i_within % n_band, i_within // n_band
    i_part = tl.program_id(1)
    o_row, o_column = i_row * ROWS + tl.arange(0, ROWS), i_column * COLUMNS + tl.arange(0, COLUMNS)
    m_row, m_column = o_row < n_rows, o_column < n_out
    o_wide, o_scale = o_column.to(tl.int64), o_column * scale_stride
    b_sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    for i_own in range(n_parts):
        begin = (i_part + i_own) * n_each
        b_sum += multiplied(
            x_ptr + o_row.to(tl.int64) * x_stride, m_row, w_ptr + o_wide * w_stride, scale_ptr + o_scale,
            zero_ptr + o_scale, m_column, n_in, begin, tl.minimum(begin + n_each, n_in),
            ROWS, COLUMNS, DEPTH, GROUP, FORMAT, ZEROED, WIDE,
        )  # fmt: skip
    if BIASED:
        b_sum += tl.load(bias_ptr + o_column, mask=m_column, other=0.0).to(tl.float32)[None, :]
    o_out = (i_part.to(tl.int64) * n_rows + o_row)[:, None] * n_out + o_column[None, :]
    tl.store(out_ptr + o_out, b_sum.to(out_ptr.dtype.element_ty), mask=m_row[:, None] & m_column[None, :])


@triton.jit
def _add_parts_kernel(
    part_ptr, bias_ptr, out_ptr, n_all, n_out, n_parts, BIASED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    o_all = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_all = o_all < n_all
    b_sum = tl.zeros([BLOCK], tl.float32)
    for i_part in range(n_parts):
        b_sum += tl.load(part_ptr + i_part * n_all + o_all, mask=m_all, other=0.0)
    if BIASED:
        b_sum += tl.load(bias_ptr + o_all % n_out, mask=m_all, other=0.0).to(tl.float32)
    tl.store(out_ptr + o_all, b_sum.to(out_ptr.dtype.element_ty), mask=m_all)


def linear(
    x: Tensor,
    weight: Packed,
    bias: Tensor | None = None,
    tiling: Tiling | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Multiply by the transposed weight.

    Args:
        x: [tokens, width]; rows must be contiguous.
        weight: [out, width].
        bias: [out], added.
        tiling: How it is parted; by the number of tokens if `None`. The same one gives a row the same bits always.
        dtype: Of the outputs; that of `x` if `None`.

    Returns:
        [tokens, out].
    """
    rows, out_width = x.shape[0], weight.out
    tiling = tiling or tiling_for(rows, weight)
    parted = tiling.parts > 1 and rows < _MANY
    apart, own = (tiling.parts, 1) if parted else (1, tiling.parts)
    grid = (triton.cdiv(rows, tiling.rows) * triton.cdiv(out_width, tiling.columns), apart)
    out = torch.empty((rows, out_width), dtype=dtype or x.dtype, device=x.device)
    steps = triton.cdiv(triton.cdiv(weight.width, tiling.depth), tiling.parts)
    sums = torch.empty((tiling.parts, rows, out_width), dtype=torch.float32, device=x.device) if parted else out
    _product_kernel[grid](
        *(x, weight.data, *scales_of(weight, x), x if bias is None else bias, sums, x.stride(0), weight.data.stride(0)),
        *(scale_stride(weight), rows, out_width, weight.width, steps * tiling.depth, own),
        ROWS=tiling.rows,
        COLUMNS=tiling.columns,
        DEPTH=tiling.depth,
        **shape_of(weight),
        BIASED=bias is not None and not parted,
        NEIGHBOURS=_NEIGHBOURS,
        WIDE=widened(x.dtype),
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )
    if parted:
        block = 1024
        _add_parts_kernel[(triton.cdiv(rows * out_width, block),)](
            *(sums, x if bias is None else bias, out, rows * out_width, out_width, tiling.parts),
            BIASED=bias is not None,
            BLOCK=block,
        )
    return out


def scales_of(weight: Packed, instead: Tensor) -> tuple[Tensor, Tensor]:
    """Give scales and zero points, or anything where there are none."""
    scales = instead if weight.scales is None else weight.scales
    return scales, scales if weight.zeros is None else weight.zeros


def scale_stride(weight: Packed) -> int:
    """How many scales a row has."""
    return 0 if weight.scales is None else weight.scales.shape[-1]


def shape_of(weight: Packed) -> dict[str, int | bool]:
    """What kernels are compiled for."""
    group = 0 if weight.group == weight.width else weight.group
    return {"GROUP": group, "FORMAT": FORMATS[weight.format], "ZEROED": weight.zeros is not None}
