"""Normalisation by the root mean square."""

from __future__ import annotations

from torch import Tensor

from engine.kernels.ops import Ops
from engine.layers.linear import TensorSource


class RmsNorm:
    """Scales each row to unit root mean square, then by a learned weight [width]."""

    def __init__(self, ops: Ops, source: TensorSource, name: str, width: int, eps: float) -> None:
        self._ops = ops
        self._weight = source.take(f"{name}.weight", width)
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, width] -> [tokens, width]."""
        return self._ops.rms_norm(x, self._weight, self._eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Return the norm of the sum, and the sum."""
        return self._ops.add_rms_norm(x, residual, self._weight, self._eps)
