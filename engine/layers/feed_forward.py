"""The gated feed-forward block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from engine.kernels.ops import Ops
from engine.layers.linear import Linear

Activation = Literal["silu", "gelu_tanh"]


class FeedForward:
    """Widens, gates, narrows."""

    def __init__(self, ops: Ops, gate_up: Linear, down: Linear, activation: Activation) -> None:
        """Take the projections; the first maps to twice the inner width, the gate ahead."""
        self._gate_up = gate_up
        self._gate: Callable[[Tensor], Tensor] = ops.silu_and_mul if activation == "silu" else ops.gelu_and_mul
        self._down = down

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        return self._down(self._gate(self._gate_up(x)))
