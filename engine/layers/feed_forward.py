"""The gated feed-forward block."""

from __future__ import annotations

from torch import Tensor

from engine.kernels.whole import Linear


class FeedForward:
    """Widens, gates, narrows."""

    def __init__(self, gate_up: Linear, down: Linear) -> None:
        """Take the projections, the first with its gate."""
        self.gate_up = gate_up
        self.down = down

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        return self.down(self.gate_up(x))
