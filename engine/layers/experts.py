"""A feed-forward block of many experts, of which every token asks a few.

Shazeer et al. 2017, "Outrageously Large Neural Networks", arXiv 1701.06538; Fedus et al. 2022, arXiv 2101.03961.
"""

from __future__ import annotations

from torch import Tensor

from engine.kernels.adapters import Routed
from engine.kernels.chances import Route
from engine.kernels.mixing import Mix
from engine.kernels.products import Linear


class Experts:
    """Chooses, asks, adds up."""

    def __init__(self, router: Linear, route: Route, mix: Mix, chosen: int, *, renormalised: bool) -> None:
        """Take the experts.

        Args:
            router: [tokens, hidden] -> [tokens, experts].
            route: chooses by what that gives.
            mix: asks them.
            chosen: how many a token asks.
            renormalised: whether their shares add up to one.
        """
        self._router = router
        self._route = route
        self._mix = mix
        self._chosen = chosen
        self._renormalised = renormalised

    def __call__(self, x: Tensor, routed: Routed | None) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]; adapters have nothing here."""
        return self._mix(x, *self._route(self._router(x), self._chosen, renormalised=self._renormalised))
