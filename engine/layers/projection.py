"""The products of a decoder's layer, with what adapters add to them."""

from __future__ import annotations

from torch import Tensor

from engine.kernels.adapters import Added, Routed
from engine.kernels.products import Linear
from engine.kernels.reference import joined
from engine.kernels.whole import Gated


class Projection:
    """A product: [tokens, in] -> [tokens, out]."""

    def __init__(self, product: Linear, outputs: int) -> None:
        """Take it without adapters."""
        self.product = product
        self.outputs = outputs
        self.added: Added | None = None
        """What adapters add to it."""

    def __call__(self, x: Tensor, routed: Routed | None) -> Tensor:
        """Multiply all tokens; those that are `routed` with their adapters."""
        out = self.product(x)
        if routed is None or self.added is None:
            return out
        return joined(out, self.added(x[routed.rows], routed), routed)


class GatedProjection:
    """A product whose first half of outputs gates the second: [tokens, in] -> [tokens, outputs / 2]."""

    def __init__(self, product: Gated, outputs: int) -> None:
        """Take it without adapters; `outputs` are those before the gate."""
        self.product = product
        self.outputs = outputs
        self.added: Added | None = None
        """What adapters add to it, before the gate."""

    def __call__(self, x: Tensor, routed: Routed | None) -> Tensor:
        """Multiply all tokens and gate; those that are `routed` with their adapters."""
        if routed is None or self.added is None:
            return self.product(x)
        return self.product.beside(x, self.added(x[routed.rows], routed), routed)
