"""Triton kernels over rows: normalisation.

Reduction order: a whole row lies in one block, so its sum does not depend on the batch, and results do not either.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton reads a kernel's parameters as pointers and scalars; its types are none that Python has

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rms_norm_kernel(
    x_ptr, weight_ptr, out_ptr, token_stride, head_stride, weight_stride, n_heads, n_cols, eps, BLOCK: tl.constexpr
):
    i_token = tl.program_id(0).to(tl.int64)
    i_head = tl.program_id(1).to(tl.int64)
    o_col = tl.arange(0, BLOCK)
    m_col = o_col < n_cols
    x_row = x_ptr + i_token * token_stride + i_head * head_stride
    b_x = tl.load(x_row + o_col, mask=m_col, other=0.0).to(tl.float32)  # [BLOCK]
    b_weight = tl.load(weight_ptr + i_head * weight_stride + o_col, mask=m_col, other=0.0).to(tl.float32)  # [BLOCK]
    mean_square = tl.sum(b_x * b_x, axis=0) / n_cols
    b_out = b_x * tl.rsqrt(mean_square + eps) * b_weight
    out_row = out_ptr + (i_token * n_heads + i_head) * n_cols
    tl.store(out_row + o_col, b_out.to(out_ptr.dtype.element_ty), mask=m_col)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As `engine.kernels.ops.Ops.rms_norm`; the last dimension of `x` must be contiguous."""
    spread = x if x.dim() == 3 else x.unsqueeze(1)  # [tokens, heads, n]
    tokens, heads, width = spread.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _rms_norm_kernel[(tokens, heads)](
        *(spread, weight, out, spread.stride(0), spread.stride(1), weight.stride(0) if weight.dim() == 2 else 0),
        *(heads, width, eps),
        BLOCK=triton.next_power_of_2(width),
    )
    return out
