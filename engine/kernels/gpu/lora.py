"""Low-rank adapters on Triton kernels: every token adds the product of its own adapter's two small weights.

Hu et al. 2021, "LoRA", arXiv 2106.09685; many adapters in one batch as Chen et al. 2023, "Punica", arXiv 2310.18547,
and Sheng et al. 2023, "S-LoRA", arXiv 2311.03285. Reduction order: see `engine.kernels.gpu.grouped`; a token's numbers
depend on its own adapter alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
import triton
from torch import Tensor

from engine.kernels.adapters import Added, LowRank, Routed
from engine.kernels.batch import on_device
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


def added_together(adapters: Sequence[Sequence[LowRank]], outputs: int) -> Added:
    """Prepare what adapters add to a product, for tokens of all of them at once. As `engine.kernels.ops.Ops.adapted`.

    Adapters with parts for the same outputs share two launches; one of a lower rank is filled up with zeros.
    """
    places = dict.fromkeys((part.first, len(part.up)) for parts in adapters for part in parts)
    stacked = [(first, _stack(adapters, first, width)) for first, width in places]

    def added(x: Tensor, routed: Routed) -> Tensor:
        out = torch.zeros((len(x), outputs), dtype=torch.float32, device=x.device)
        aligned = routed.shared.get(Aligned)
        if aligned is None:
            whose = np.empty(len(x), np.int64)
            for adapter, begin, end in routed.parts:
                whose[begin:end] = adapter
            aligned = routed.shared[Aligned] = by_adapter(on_device(whose, x.device), len(adapters))
        for first, (down, up, ones) in stacked:
            expand(shrink(x, down, aligned), up, ones, aligned, out[:, first : first + up.shape[1]])
        return out

    return added


def _stack(adapters: Sequence[Sequence[LowRank]], first: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give [adapters, rank, in], [adapters, outputs, rank] and factors of 1; zeros for who adds nothing there."""
    own = [next((part for part in parts if (part.first, len(part.up)) == (first, width)), None) for parts in adapters]
    some = next(part for part in own if part is not None)
    rank = max(len(part.down) for part in own if part is not None)
    down = some.down.new_zeros((len(own), rank, some.down.shape[1]))
    up = some.up.new_zeros((len(own), width, rank))
    for at, part in enumerate(own):
        if part is not None:
            down[at, : len(part.down)] = part.down
            up[at, :, : len(part.down)] = part.up
    return down, up, torch.ones(len(own), dtype=torch.float32, device=down.device)
