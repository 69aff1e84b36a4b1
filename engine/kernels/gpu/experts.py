"""A mixture of experts on Triton kernels: rows sorted by expert, two grouped products with a gate between, a sum.

Shazeer et al. 2017, arXiv 1701.06538; the products without padding to a capacity as Gale et al. 2022, "MegaBlocks",
arXiv 2211.15841. Reduction order: a token's experts are added in the order in which they were chosen; see
`engine.kernels.gpu.grouped` for the products.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton reads a kernel's parameters as pointers and scalars; its types are none that Python has

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.gpu.grouped import align, multiply
from engine.kernels.gpu.pointwise import gate
from engine.kernels.gpu.quantized import Tiling, tiling_for
from engine.kernels.packing import Packed
from engine.kernels.products import Activation


@triton.jit
def _combine_kernel(x_ptr, share_ptr, choice_ptr, out_ptr, n_chosen, n_cols, BLOCK: tl.constexpr):
    i_token = tl.program_id(0).to(tl.int64)
    o_col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_col = o_col < n_cols
    b_sum = tl.zeros([BLOCK], tl.float32)
    for i_chosen in range(n_chosen):
        i_row = i_token * n_chosen + i_chosen
        there = tl.load(choice_ptr + i_row) >= 0
        b_x = tl.load(x_ptr + i_row * n_cols + o_col, mask=m_col & there, other=0.0).to(tl.float32)
        b_sum += b_x * tl.load(share_ptr + i_row).to(tl.float32)
    tl.store(out_ptr + i_token * n_cols + o_col, b_sum.to(out_ptr.dtype.element_ty), mask=m_col)


def experts_tiling(rows: int, weight: Packed) -> Tiling:
    """Choose for so many rows among all experts; `weight` is [experts, out, width]."""
    each = triton.cdiv(rows, weight.data.shape[0])
    chosen = tiling_for(max(1, each), weight)
    return Tiling(min(chosen.rows, 64), chosen.columns, min(chosen.depth, 64), warps=4)


def mix(
    x: Tensor,
    gate_up: Packed,
    down: Packed,
    shares: Tensor,
    choices: Tensor,
    activation: Activation,
    tiling: Tiling | None = None,
) -> Tensor:
    """Send every token through its experts and add what they say.

    Args:
        x: [tokens, hidden].
        gate_up: [experts, 2 * inner, hidden]; the first half gates the second.
        down: [experts, hidden, inner].
        shares: [tokens, chosen]: what each expert counts.
        choices: Integers [tokens, chosen]: which experts; below 0 for none, as where another device has it.
        activation: Of the gate.
        tiling: How the products are parted; by the number of tokens if `None`.

    Returns:
        [tokens, hidden].
    """
    tokens, hidden = x.shape
    choices = choices.contiguous()
    rows, inner = choices.numel(), gate_up.out
    tiling = tiling or experts_tiling(rows, gate_up)
    aligned = align(choices.view(-1), gate_up.data.shape[0], tiling.rows)
    widened = torch.empty((rows, inner), dtype=x.dtype, device=x.device)
    multiply(x, gate_up, aligned, widened, tiling)
    gated = gate(widened, activation)
    narrowed = torch.empty((rows, hidden), dtype=x.dtype, device=x.device)
    multiply(gated, down, aligned, narrowed, tiling)
    out = torch.empty((tokens, hidden), dtype=x.dtype, device=x.device)
    block = min(1024, triton.next_power_of_2(hidden))
    _combine_kernel[(tokens, triton.cdiv(hidden, block))](
        narrowed, shares.contiguous(), choices, out, choices.shape[1], hidden, BLOCK=block
    )
    return out
