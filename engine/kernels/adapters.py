"""Adapters: which tokens of a step have one, and what it adds to a product.

Hu et al. 2021, "LoRA", arXiv 2106.09685: beside a weight an adapter has two small ones, `down` and `up`, and what it
adds is `x @ down.T @ up.T`. Tokens of one step may have different adapters, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.kernels.batch import Integers, on_device


@dataclass(frozen=True, slots=True)
class LowRank:
    """What one adapter has beside some outputs of a product."""

    down: Tensor
    """[rank, in]."""
    up: Tensor
    """[outputs, rank]; what the adapter is scaled by is in it."""
    first: int
    """The first of the outputs."""


@dataclass(frozen=True, slots=True)
class Routed:
    """The tokens of a step that have an adapter, those of each one after the other."""

    rows: Tensor
    """int64 [n]: where in the flat batch they are, on the device."""
    places: Integers
    """The same on the host."""
    parts: tuple[tuple[int, int, int], ...]
    """(adapter, begin, end) of stretches of `rows`."""
    shared: dict[Any, Any] = field(default_factory=dict)
    """What ops have prepared for these tokens."""

    @classmethod
    def of(cls, adapters: Integers, device: torch.device) -> Routed | None:
        """Sort tokens by their adapter, [tokens], below 0 for none; None where none has one."""
        having = np.flatnonzero(adapters >= 0)
        if not having.size:
            return None
        places = having[np.argsort(adapters[having], kind="stable")]
        edges = np.flatnonzero(np.diff(adapters[places])) + 1
        bounds = [0, *edges.tolist(), len(places)]
        parts = tuple((int(adapters[places[begin]]), begin, end) for begin, end in pairwise(bounds))
        return cls(on_device(places, device), places, parts)


Added = Callable[[Tensor, Routed], Tensor]
"""([n, in], whose they are) -> float32 [n, outputs]: what adapters add to a product of these rows."""


def added_apart(
    products: Sequence[Sequence[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], int, int]]], outputs: int
) -> Added:
    """Add adapter by adapter: of each its (product with down, product with up in float32, first output, outputs)."""

    def added(x: Tensor, routed: Routed) -> Tensor:
        out = torch.zeros((len(x), outputs), dtype=torch.float32, device=x.device)
        for adapter, begin, end in routed.parts:
            for down, up, first, width in products[adapter]:
                out[begin:end, first : first + width] += up(down(x[begin:end]))
        return out

    return added
