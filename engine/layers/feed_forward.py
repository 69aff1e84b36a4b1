"""The gated feed-forward block."""

from __future__ import annotations

from torch import Tensor

from engine.kernels.adapters import Routed
from engine.layers.projection import GatedProjection, Projection


class FeedForward:
    """Widens, gates, narrows."""

    def __init__(self, gate_up: GatedProjection, down: Projection) -> None:
        """Take the projections, the first with its gate."""
        self.gate_up = gate_up
        self.down = down

    def __call__(self, x: Tensor, routed: Routed | None) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        return self.down(self.gate_up(x, routed), routed)
