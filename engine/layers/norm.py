"""Normalisation by the root mean square, its absence, and the older one by mean and deviation."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from engine.kernels.ops import Ops
from engine.layers.linear import TensorSource


class Norm(Protocol):
    """What stands before or after a part of a block."""

    @property
    def weight(self) -> Tensor | None:
        """[width], the offset added; None where nothing is normalised."""

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, width] -> [tokens, width]."""

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Return the norm of the sum, and the sum."""


class RmsNorm:
    """Scales each row to unit root mean square, then by a learned weight [width], to which `offset` is added."""

    def __init__(
        self, ops: Ops, source: TensorSource, name: str, width: int, eps: float, *, offset: float = 0.0
    ) -> None:
        self._ops = ops
        self.weight = norm_weight(source, name, width, offset)
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, width] -> [tokens, width]."""
        return self._ops.rms_norm(x, self.weight, self._eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Return the norm of the sum, and the sum."""
        return self._ops.add_rms_norm(x, residual, self.weight, self._eps)


class NoNorm:
    """Stands where a family has no norm."""

    weight = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return what came."""
        return x

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum, twice."""
        total = x + residual
        return total, total


class LayerNorm:
    """Brings each row to mean zero and deviation one, then scales and shifts it."""

    def __init__(self, ops: Ops, source: TensorSource, name: str, width: int, eps: float, *, bias: bool = True) -> None:
        """Load `name`.weight [width], and `name`.bias where the architecture has one."""
        self._ops = ops
        self._weight = source.take(f"{name}.weight", width)
        self._bias = source.take(f"{name}.bias", width) if bias else torch.zeros_like(self._weight)
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, width] -> [tokens, width]."""
        return self._ops.layer_norm(x, self._weight, self._bias, self._eps)


def norm_weight(source: TensorSource, name: str, width: int, offset: float) -> Tensor:
    """Load `name`.weight; with an offset it stays in float32, since small weights would vanish beside it."""
    weight = source.take(f"{name}.weight", width)
    return weight.float() + offset if offset else weight
