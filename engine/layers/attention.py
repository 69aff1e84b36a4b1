"""Self-attention over the paged KV cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.ops import Ops
from engine.layers.linear import TensorSource, load_linear, load_stacked


@dataclass(frozen=True, slots=True)
class HeadShape:
    """How attention divides its width."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class StepContext:
    """What all attention layers of one step share."""

    slots: Tensor
    """int64 [tokens]: where keys and values go."""
    cos: Tensor
    sin: Tensor
    """[tokens, 1, head_dim]."""
    attend: Callable[[Tensor, Tensor], Tensor]
    """What `Ops.attention` prepared for this batch."""


class Attention:
    """Projects, rotates, stores keys and values, attends, projects back."""

    def __init__(
        self, ops: Ops, source: TensorSource, name: str, shape: HeadShape, *, bias: bool, head_norm: float | None
    ) -> None:
        """Load the layer `name`; `head_norm` is the epsilon of a norm over each query and key head, if it has one."""
        q_width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        parts = ((f"{name}.q_proj", q_width), (f"{name}.k_proj", kv_width), (f"{name}.v_proj", kv_width))
        self._ops = ops
        self._shape = shape
        self._qkv = load_stacked(ops, source, parts, shape.hidden, bias)
        self._out = load_linear(ops, source, f"{name}.o_proj", (shape.hidden, q_width), bias)
        self._head_norm = None if head_norm is None else (_head_weights(source, name, shape), head_norm)

    def __call__(self, x: Tensor, step: StepContext, cache: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden], writing into `cache` [blocks, block_size, 2, kv_heads, head_dim]."""
        ops, shape = self._ops, self._shape
        turned = shape.heads + shape.kv_heads
        qkv = self._qkv(x).view(-1, turned + shape.kv_heads, shape.head_dim)
        qk = qkv[:, :turned]
        if self._head_norm is not None:
            qk = ops.rms_norm(qk, *self._head_norm)
        qk = ops.rotary(qk, step.cos, step.sin)
        ops.write_kv(qk[:, shape.heads :], qkv[:, turned:], cache, step.slots)
        out = step.attend(qk[:, : shape.heads], cache)
        return self._out(out.reshape(-1, shape.heads * shape.head_dim))


def _head_weights(source: TensorSource, name: str, shape: HeadShape) -> Tensor:
    """Load the head norms, repeated so that queries and keys are normalised in one call: [heads, head_dim]."""
    query = source.take(f"{name}.q_norm.weight", shape.head_dim)
    key = source.take(f"{name}.k_norm.weight", shape.head_dim)
    return torch.cat((query.expand(shape.heads, -1), key.expand(shape.kv_heads, -1)))
