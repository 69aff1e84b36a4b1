"""A decoder's layers as values, for ops that compute all of them in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from engine.kernels.adapters import Added, Routed
from engine.kernels.batch import PagedBatch
from engine.kernels.products import Activation, Linear


class Gated(Protocol):
    """A product of which the first half of the outputs gates the second."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """[tokens, in] -> [tokens, out / 2]."""

    def beside(self, x: Tensor, added: Tensor, routed: Routed) -> Tensor:
        """The same where float32 [n, out] is added, before the gate, to the rows that have an adapter."""


Whole = Callable[[Tensor, Tensor, Sequence[PagedBatch], Sequence[Tensor], Routed | None], Tensor | None]
"""(x [tokens, hidden], int64 positions [tokens], a batch for each group, a cache for each layer, the tokens that have
an adapter) -> [tokens, hidden].

`x` may be overwritten; None is what cannot be computed like that for blocks of this size, and nothing was done.
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """How a layer turns queries and keys."""

    frequencies: Tensor
    """float32 [half of what turns of a head]."""
    magnitude: float


@dataclass(frozen=True, slots=True)
class WholeLayer:
    """What a layer has; the products are what `Ops.linear` and `Ops.gated` gave."""

    qkv: Linear
    out: Linear
    gate_up: Gated
    down: Linear
    before: Tensor | None
    behind_attention: Tensor | None
    between: Tensor | None
    behind: Tensor | None
    """Weights of norms, [hidden] each."""
    head_norm: Tensor | None
    """[heads + kv_heads, head_dim]."""
    wide_norm: bool
    """Whether it is over all heads of a token together."""
    turn: Turn
    window: int | None
    group: int
    added: tuple[Added | None, Added | None, Added | None, Added | None]
    """What adapters add to the four products, in their order."""


@dataclass(frozen=True, slots=True)
class WholeDecoder:
    """All layers, and what they share."""

    layers: tuple[WholeLayer, ...]
    last_norm: Tensor
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    eps: float
    scale: float
    cap: float | None
    activation: Activation
