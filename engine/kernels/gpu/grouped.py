"""Triton kernels for products in which every row has a weight of its own choice among several: experts, adapters.

Rows are sorted by their weight, those of each in whole tiles, without a word from the host: how many tiles there may be
is known from the shapes alone. Reduction order: as `engine.kernels.gpu.quantized`, in one part; a row's numbers do not
depend on the rows beside it as long as the tiling is the same.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton reads a kernel's parameters as pointers and scalars; its types are none that Python has

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.gpu.products import widened
from engine.kernels.gpu.quantized import Tiling, multiplied, scale_stride, scales_of, shape_of
from engine.kernels.packing import Packed

_LOOKED: Final = 1024
"""Choices that a program looks through at once."""


@dataclass(frozen=True, slots=True)
class Aligned:
    """Rows sorted by what they chose, in tiles of which every one has a single choice."""

    order: Tensor
    """int32 [tiles * rows]: which rows; where a tile is not full, the number of rows there are."""
    owners: Tensor
    """int32 [tiles]: the choice of each tile, below 0 where it is not used."""
    rows: int
    """Of a tile."""


@triton.jit(do_not_specialize=["n_rows"])
def _count_kernel(choice_ptr, count_ptr, n_rows, BLOCK: tl.constexpr):
    i_choice = tl.program_id(0)
    count = tl.zeros([BLOCK], tl.int32)
    for i_row in range(0, n_rows, BLOCK):
        o_row = i_row + tl.arange(0, BLOCK)
        b_choice = tl.load(choice_ptr + o_row, mask=o_row < n_rows, other=-1)
        count += (b_choice == i_choice).to(tl.int32)
    tl.store(count_ptr + i_choice, tl.sum(count, axis=0))


@triton.jit(do_not_specialize=["n_rows"])
def _align_kernel(
    choice_ptr, count_ptr, order_ptr, owner_ptr, n_rows, n_choices, ROWS: tl.constexpr, CHOICES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i_choice = tl.program_id(0)
    o_choice = tl.arange(0, CHOICES)
    b_count = tl.load(count_ptr + o_choice, mask=o_choice < n_choices, other=0)
    b_tiles = (b_count + ROWS - 1) // ROWS
    tile = tl.sum(tl.where(o_choice < i_choice, b_tiles, 0), axis=0)  # where its own begin
    own = tl.sum(tl.where(o_choice == i_choice, b_tiles, 0), axis=0)
    for i_tile in range(tile, tile + own):
        tl.store(owner_ptr + i_tile, i_choice)
    place = tile * ROWS
    for i_row in range(0, n_rows, BLOCK):
        o_row = i_row + tl.arange(0, BLOCK)
        b_chosen = (tl.load(choice_ptr + o_row, mask=o_row < n_rows, other=-1) == i_choice).to(tl.int32)
        b_place = place + tl.cumsum(b_chosen, axis=0) - 1
        tl.store(order_ptr + b_place, o_row, mask=b_chosen > 0)
        place += tl.sum(b_chosen, axis=0)


def align(choices: Tensor, count: int, rows: int) -> Aligned:
    """Sort rows by their choice: integers [n], each from 0 to `count` - 1, or below 0 for none; order is kept."""
    total = choices.numel()
    tiles = min(total, count + total // rows)
    order = torch.full((tiles * rows,), total, dtype=torch.int32, device=choices.device)
    owners = torch.full((tiles,), -1, dtype=torch.int32, device=choices.device)
    counts = torch.empty((count,), dtype=torch.int32, device=choices.device)
    if total:
        _count_kernel[(count,)](choices, counts, total, BLOCK=_LOOKED)
        _align_kernel[(count,)](
            *(choices, counts, order, owners, total, count),
            ROWS=rows,
            CHOICES=triton.next_power_of_2(count),
            BLOCK=_LOOKED,
        )
    return Aligned(order, owners, rows)


@triton.jit(do_not_specialize=["n_rows"])
def _grouped_kernel(
    x_ptr, w_ptr, scale_ptr, zero_ptr, factor_ptr, order_ptr, owner_ptr, out_ptr, x_stride, w_each, w_stride,
    scale_each, scale_stride, out_stride, n_rows, n_shared, n_out, n_in, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr, GROUP: tl.constexpr, FORMAT: tl.constexpr, ZEROED: tl.constexpr, ADDED: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    i_column, i_tile = tl.program_id(0), tl.program_id(1)
    owner = tl.load(owner_ptr + i_tile).to(tl.int64)
    if owner < 0:
        return
    o_row = tl.load(order_ptr + i_tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    o_column = i_column * COLUMNS + tl.arange(0, COLUMNS)
    m_row, m_column = o_row < n_rows, o_column < n_out
    scales = owner * scale_each + o_column * scale_stride
    b_sum = multiplied(
        x_ptr + o_row // n_shared * x_stride, m_row, w_ptr + owner * w_each + o_column.to(tl.int64) * w_stride,
        scale_ptr + scales, zero_ptr + scales, m_column, n_in, 0, n_in,
        ROWS, COLUMNS, DEPTH, GROUP, FORMAT, ZEROED, WIDE,
    )  # fmt: skip
    out = out_ptr + o_row[:, None] * out_stride + o_column[None, :]
    m_out = m_row[:, None] & m_column[None, :]
    if ADDED:
        b_sum *= tl.load(factor_ptr + owner)
        b_sum += tl.load(out, mask=m_out, other=0.0).to(tl.float32)
    tl.store(out, b_sum.to(out_ptr.dtype.element_ty), mask=m_out)


def multiply(
    x: Tensor, weight: Packed, aligned: Aligned, out: Tensor, tiling: Tiling, factors: Tensor | None = None
) -> None:
    """Multiply every row by the transposed weight of its choice, into `out` [rows, out].

    Args:
        x: [rows / n, width]: each row stands for n that follow one another.
        weight: [choices, out, width].
        aligned: The rows, in tiles as high as those of the tiling; rows without a choice are left as they are.
        out: Rows must be contiguous.
        tiling: How it is parted.
        factors: float32 [choices]: if given, so many times the product are added to what is there.
    """
    rows, (_, out_width, _) = out.shape[0], weight.data.shape
    assert aligned.rows == tiling.rows, "rows were aligned for another tiling"
    tiles = len(aligned.owners)
    if not tiles:
        return
    scales = weight.scales
    _grouped_kernel[(triton.cdiv(out_width, tiling.columns), tiles)](
        *(x, weight.data, *scales_of(weight, x), x if factors is None else factors, aligned.order, aligned.owners),
        *(out, x.stride(0), weight.data.stride(0), weight.data.stride(1), 0 if scales is None else scales.stride(0)),
        *(scale_stride(weight), out.stride(0), rows, rows // max(len(x), 1), out_width, weight.width),
        ROWS=tiling.rows,
        COLUMNS=tiling.columns,
        DEPTH=tiling.depth,
        **shape_of(weight),
        ADDED=factors is not None,
        WIDE=widened(x.dtype),
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )
