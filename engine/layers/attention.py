"""Self-attention over the paged KV cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.adapters import Routed
from engine.kernels.ops import Ops
from engine.layers.linear import TensorSource
from engine.layers.norm import norm_weight
from engine.layers.projection import Projection


@dataclass(frozen=True, slots=True)
class HeadShape:
    """How attention divides its width."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def q_width(self) -> int:
        """Of all queries together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Of all keys together, and of all values."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class StepContext:
    """What attention layers of one step share if they turn alike and look back as far."""

    slots: Tensor
    """int64 [tokens]: where keys and values go."""
    cos: Tensor
    sin: Tensor
    """[tokens, 1, at most head_dim]: what is beyond does not turn."""
    attend: Callable[[Tensor, Tensor], Tensor]
    """What `Ops.attention` prepared for this batch."""
    routed: Routed | None
    """The tokens that have an adapter."""


class Attention:
    """Projects, rotates, stores keys and values, attends, projects back."""

    def __init__(
        self, ops: Ops, shape: HeadShape, qkv: Projection, out: Projection, head_norm: HeadNorm | WidthNorm | None
    ) -> None:
        """Take the projections; `head_norm` is applied to queries and keys [tokens, heads + kv_heads, head_dim]."""
        self._ops = ops
        self._shape = shape
        self.qkv = qkv
        self.out = out
        self.head_norm = head_norm

    def __call__(self, x: Tensor, step: StepContext, cache: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden], writing into `cache` [blocks, block_size, 2, kv_heads, head_dim]."""
        ops, shape = self._ops, self._shape
        turned = shape.heads + shape.kv_heads
        qkv = self.qkv(x, step.routed).view(-1, turned + shape.kv_heads, shape.head_dim)
        qk = qkv[:, :turned]
        if self.head_norm is not None:
            qk = self.head_norm(qk)
        query = ops.turn_and_store(qk, qkv[:, turned:], (step.cos, step.sin), cache, step.slots)
        out = step.attend(query, cache)
        return self.out(out.reshape(-1, shape.q_width), step.routed)


class HeadNorm:
    """Normalises every query head and every key head by itself."""

    def __init__(
        self, ops: Ops, source: TensorSource, name: str, shape: HeadShape, eps: float, *, offset: float = 0.0
    ) -> None:
        """Load the norms of the attention layer `name`, repeated so that one call does for queries and keys."""
        query = norm_weight(source, f"{name}.q_norm", shape.head_dim, offset)
        key = norm_weight(source, f"{name}.k_norm", shape.head_dim, offset)
        self._ops = ops
        self._eps = eps
        self.weight = torch.cat((query.expand(shape.heads, -1), key.expand(shape.kv_heads, -1)))
        """[heads + kv_heads, head_dim]."""

    def __call__(self, qk: Tensor) -> Tensor:
        """[tokens, heads + kv_heads, head_dim] -> the same."""
        return self._ops.rms_norm(qk, self.weight, self._eps)


class WidthNorm:
    """Normalises all queries of a token together, and all of its keys."""

    def __init__(self, ops: Ops, source: TensorSource, name: str, shape: HeadShape, eps: float) -> None:
        """Load the norms of the attention layer `name`."""
        self._ops = ops
        self._eps = eps
        self._heads = shape.heads
        self._query = norm_weight(source, f"{name}.q_norm", shape.q_width, 0.0)
        self._key = norm_weight(source, f"{name}.k_norm", shape.kv_width, 0.0)

    @property
    def weight(self) -> Tensor:
        """[heads + kv_heads, head_dim]."""
        return torch.cat((self._query, self._key))

    def __call__(self, qk: Tensor) -> Tensor:
        """[tokens, heads + kv_heads, head_dim] -> the same."""
        query = self._ops.rms_norm(qk[:, : self._heads].flatten(1), self._query, self._eps)
        key = self._ops.rms_norm(qk[:, self._heads :].flatten(1), self._key, self._eps)
        return torch.cat((query, key), -1).view(qk.shape)
