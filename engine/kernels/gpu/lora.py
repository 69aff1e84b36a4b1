"""Low-rank adapters on Triton kernels: every token adds the product of its own adapter's two small weights.

Hu et al. 2021, "LoRA", arXiv 2106.09685; many adapters in one batch as Chen et al. 2023, "Punica", arXiv 2310.18547,
and Sheng et al. 2023, "S-LoRA", arXiv 2311.03285. Reduction order: see `engine.kernels.gpu.grouped`; a token's numbers
depend on its own adapter alone.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
from torch import Tensor

from engine.kernels.gpu.grouped import Aligned, align, multiply
from engine.kernels.gpu.quantized import Tiling
from engine.kernels.packing import plain

ROWS: Final = 16
"""Of a tile, whatever the batch."""


def by_adapter(adapters: Tensor, count: int) -> Aligned:
    """Sort tokens by adapter, integers [tokens] below 0 for none: once per step, for all layers."""
    return align(adapters, count, ROWS)


def shrink(x: Tensor, down: Tensor, aligned: Aligned) -> Tensor:
    """Multiply by the first weights: [tokens, in] and [adapters, rank, in] -> [tokens, rank].

    Rows of tokens without an adapter mean nothing.
    """
    rank = down.shape[1]
    out = torch.empty((len(x), rank), dtype=x.dtype, device=x.device)
    multiply(x, plain(down), aligned, out, Tiling(ROWS, max(16, min(64, triton.next_power_of_2(rank))), 128))
    return out


def expand(x: Tensor, up: Tensor, scales: Tensor, aligned: Aligned, out: Tensor) -> None:
    """Add the product with the second weights to `out` [tokens, out], or to some columns of a wider tensor.

    `x` is [tokens, rank], `up` [adapters, out, rank], `scales` float32 [adapters].
    """
    depth = max(16, min(64, triton.next_power_of_2(up.shape[2])))
    multiply(x, plain(up), aligned, out, Tiling(ROWS, 128, depth), scales)
