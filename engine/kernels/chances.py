"""How rows of logits are drawn from, as kernels take it, and what kernels do with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor


class Route(Protocol):
    """Chooses experts."""

    def __call__(self, logits: Tensor, chosen: int, *, renormalised: bool) -> tuple[Tensor, Tensor]:
        """As `engine.kernels.mixing.route`."""


class Chances(NamedTuple):
    """[rows] each, on the device; as `engine.sampling.Choices` means them."""

    temperature: Tensor
    """float32; 0 is greedy."""
    top_k: Tensor
    """int64; 0 keeps all."""
    top_p: Tensor
    """float32; 1 keeps all."""
    min_p: Tensor
    """float32; 0 keeps all."""
    seed: Tensor
    """int64."""
    position: Tensor
    """int64: in the output, from 0."""


class RowKernels(NamedTuple):
    """What is done to each row by itself once a model is through."""

    draw: Callable[[Tensor, Chances], Tensor]
    """Chooses a token for every row of logits by the rules of `engine.sampling`: float32 [rows, n] -> int64 [rows]."""
    unsound: Callable[[Tensor], Tensor | None]
    """Finds the rows that hold a number that is not finite: [rows, n] -> bool [rows], or None if it knows of none."""
    run_ahead: bool = False
    """Whether a step may be launched on an accelerator before what came of the one before is known: nothing in it waits
    for the device, these kernels included, and attention reads nothing but a request's own entries, so that one whose
    numbers are not finite does no harm until that is seen."""
    route: Route | None = None
    """Chooses experts as `engine.kernels.mixing.route` does, the lower of equal ones; None if it knows of no way."""


def unsound(x: Tensor) -> Tensor:
    """Find them operation by operation."""
    return x.isfinite().all(dim=-1).logical_not_()
