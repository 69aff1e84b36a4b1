"""A Triton kernel for a product of which the first half gates the second, for few rows: both halves and the gate.

With few rows a step is as fast as weights are read, and between two kernels nothing is read. Reduction order: as
`engine.kernels.gpu.quantized`, in one part; halves are gated in float32, before anything is rounded.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton reads a kernel's parameters as pointers and scalars; its types are none that Python has

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.gpu.pointwise import bent
from engine.kernels.gpu.products import widened
from engine.kernels.gpu.quantized import Tiling, multiplied, scale_stride, scales_of, shape_of
from engine.kernels.packing import Packed
from engine.kernels.products import Activation


@triton.jit(do_not_specialize=["n_rows"])
def _gated_kernel(
    x_ptr, w_ptr, scale_ptr, zero_ptr, out_ptr, x_stride, w_stride, scale_stride, n_rows, n_half, n_in,
    SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    FORMAT: tl.constexpr, ZEROED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    o_row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    o_column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    m_row, m_column = o_row < n_rows, o_column < n_half
    x_rows = x_ptr + o_row.to(tl.int64) * x_stride
    o_gate, o_up = o_column.to(tl.int64), (o_column + n_half).to(tl.int64)
    b_gate = multiplied(
        x_rows, m_row, w_ptr + o_gate * w_stride, scale_ptr + o_gate * scale_stride, zero_ptr + o_gate * scale_stride,
        m_column, n_in, 0, n_in, ROWS, COLUMNS, DEPTH, GROUP, FORMAT, ZEROED, WIDE,
    )  # fmt: skip
    b_up = multiplied(
        x_rows, m_row, w_ptr + o_up * w_stride, scale_ptr + o_up * scale_stride, zero_ptr + o_up * scale_stride,
        m_column, n_in, 0, n_in, ROWS, COLUMNS, DEPTH, GROUP, FORMAT, ZEROED, WIDE,
    )  # fmt: skip
    b_out = bent(b_gate, SILU) * b_up
    o_out = o_row.to(tl.int64)[:, None] * n_half + o_column[None, :]
    tl.store(out_ptr + o_out, b_out.to(out_ptr.dtype.element_ty), mask=m_row[:, None] & m_column[None, :])


def linear_gated(x: Tensor, weight: Packed, activation: Activation, tiling: Tiling) -> Tensor:
    """Multiply [tokens, width] by the transposed weight [2 * half, width] and gate; -> [tokens, half].

    Rows must be contiguous; the tiling's parts are of no account.
    """
    rows, half = len(x), weight.out // 2
    out = torch.empty((rows, half), dtype=x.dtype, device=x.device)
    _gated_kernel[(triton.cdiv(half, tiling.columns), triton.cdiv(rows, tiling.rows))](
        *(x, weight.data, *scales_of(weight, x), out, x.stride(0), weight.data.stride(0), scale_stride(weight)),
        *(rows, half, weight.width),
        SILU=activation == "silu",
        ROWS=tiling.rows,
        COLUMNS=tiling.columns,
        DEPTH=tiling.depth,
        **shape_of(weight),
        WIDE=widened(x.dtype),
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )
    return out
