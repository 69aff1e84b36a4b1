"""Adapters: which tokens of a step have one, and what it adds to a product.

Hu et al. 2021, "LoRA", arXiv 2106.09685: beside a weight an adapter has two small ones, `down` and `up`, and what it
adds is `x @ down.T @ up.T`. Tokens of one step may have different adapters, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.kernels.batch import Integers, on_device
from engine.kernels.products import Linear


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


class Up(NamedTuple):
    """One of an adapter's second products."""

    product: Linear
    """To float32."""
    ranks: slice
    """Of what the first product gives."""
    outputs: slice


class Products(NamedTuple):
    """What an adapter has beside one product."""

    down: Linear | None
    """Of all its parts together; None if it adds nothing."""
    ups: tuple[Up, ...]


def products_of(
    parts: Sequence[LowRank], linear: Callable[[Tensor], Linear], wide: Callable[[Tensor], Linear]
) -> Products:
    """Prepare an adapter's products; `linear` prepares one, `wide` one to float32."""
    if not parts:
        return Products(None, ())
    ups, rank = [], 0
    for part in parts:
        ranks, outputs = slice(rank, rank + len(part.down)), slice(part.first, part.first + len(part.up))
        ups.append(Up(wide(part.up), ranks, outputs))
        rank = ranks.stop
    return Products(linear(torch.cat([part.down for part in parts])), tuple(ups))


def added_apart(products: Sequence[Products], outputs: int) -> Added:
    """Add adapter by adapter."""

    def added(x: Tensor, routed: Routed) -> Tensor:
        out = torch.zeros((len(x), outputs), dtype=torch.float32, device=x.device)
        for adapter, begin, end in routed.parts:
            down, ups = products[adapter]
            if down is not None:
                low = down(x[begin:end])
                for up in ups:
                    out[begin:end, up.outputs] = up.product(low[:, up.ranks])
        return out

    return added
