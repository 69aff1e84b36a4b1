"""The processor's path: weights are packed once into oneDNN's blocked layout, which is 1.2 to 2.5 times as fast.

Reduction order: measured on AVX-512, a packed product gives each row the same bits for any number of rows but one,
and one row is therefore computed as two. Together with attention that is grouped by a request's own length, a
request's tokens do not depend on its neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.gathered import GatheredOps
from engine.kernels.products import Linear
from engine.kernels.weights import Int8Weight, Weight, whole


class CpuOps(GatheredOps):
    """Gathered attention and packed products. Promises and shapes: see `engine.kernels.ops.Ops`."""

    def linear(self, weight: Weight, bias: Tensor | None, *, wide: bool = False) -> Linear:
        if isinstance(weight, Int8Weight):
            return super().linear(weight, bias, wide=wide)
        # what torch.compile calls on a CPU, and the only way to oneDNN's packed weights from Python
        packed = torch.ops.mkldnn._reorder_linear_weight(whole(weight), None)  # noqa: SLF001
        product = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001

        def apply(x: Tensor) -> Tensor:
            rows = x.shape[0]
            out: Tensor = product(x.expand(2, -1).contiguous() if rows == 1 else x, packed, bias, "none", [], "")
            return out[:rows].float() if wide else out[:rows]

        return apply

    def _sums_of_8_bits(self, weight: Tensor) -> Linear:
        columns = weight.T
        return lambda numbers: torch._int_mm(numbers, columns)  # noqa: SLF001
