"""The gated feed-forward block."""

from __future__ import annotations

from torch import Tensor

from engine.kernels.ops import Ops
from engine.layers.linear import TensorSource, load_linear, load_stacked


class FeedForward:
    """Widens, gates with SiLU, narrows."""

    def __init__(self, ops: Ops, source: TensorSource, name: str, hidden: int, inner: int, bias: bool) -> None:
        parts = ((f"{name}.gate_proj", inner), (f"{name}.up_proj", inner))
        self._ops = ops
        self._gate_up = load_stacked(ops, source, parts, hidden, bias)
        self._down = load_linear(ops, source, f"{name}.down_proj", (hidden, inner), bias)

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        return self._down(self._ops.silu_and_mul(self._gate_up(x)))
