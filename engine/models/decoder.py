"""The decoder that Llama, Qwen3 and their kin share; a family is a choice of its traits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.batch import PagedBatch
from engine.kernels.ops import Ops
from engine.layers.attention import Attention, HeadShape, StepContext
from engine.layers.embedding import Vocabulary
from engine.layers.feed_forward import FeedForward
from engine.layers.linear import TensorSource
from engine.layers.norm import RmsNorm
from engine.layers.rotary import Rotary
from engine.models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Traits:
    """Where families differ."""

    head_norm: bool = False
    """Normalise each query and key head before rotation."""
    attention_bias: bool = False
    mlp_bias: bool = False


class Block:
    """Attention and feed-forward, each behind a norm and added to the residual."""

    def __init__(self, config: ModelConfig, ops: Ops, source: TensorSource, index: int, traits: Traits) -> None:
        name = f"model.layers.{index}"
        hidden, eps = config.hidden, config.rms_eps
        shape = HeadShape(hidden, config.heads, config.kv_heads, config.head_dim)
        head_norm = eps if traits.head_norm else None
        self._before = RmsNorm(ops, source, f"{name}.input_layernorm", hidden, eps)
        self._attention = Attention(
            ops, source, f"{name}.self_attn", shape, bias=traits.attention_bias, head_norm=head_norm
        )
        self._between = RmsNorm(ops, source, f"{name}.post_attention_layernorm", hidden, eps)
        self._feed_forward = FeedForward(ops, source, f"{name}.mlp", hidden, config.inner, traits.mlp_bias)

    def __call__(self, x: Tensor, residual: Tensor | None, step: StepContext, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Return this block's contribution and the residual it is to be added to, each [tokens, hidden]."""
        normal, residual = (self._before(x), x) if residual is None else self._before.add(x, residual)
        normal, residual = self._between.add(self._attention(normal, step, cache), residual)
        return self._feed_forward(normal), residual


class Decoder:
    """A causal language model over a paged KV cache. Stateless: the cache is passed in."""

    def __init__(self, config: ModelConfig, ops: Ops, source: TensorSource, traits: Traits) -> None:
        self.config = config
        self._ops = ops
        self._vocabulary = Vocabulary(ops, source, (config.vocabulary, config.hidden), config.tied)
        self._blocks = tuple(Block(config, ops, source, i, traits) for i in range(config.layers))
        self._norm = RmsNorm(ops, source, "model.norm", config.hidden, config.rms_eps)
        self._scale = config.head_dim**-0.5
        self._rotary = Rotary(config.head_dim, config.rope_theta, config.rope_scaling, self.device)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._vocabulary.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format it computes in, and that of its KV cache."""
        return self._vocabulary.dtype

    def forward(self, tokens: Tensor, positions: Tensor, batch: PagedBatch, caches: Sequence[Tensor]) -> Tensor:
        """Compute int64 [tokens] at int64 positions [tokens], writing each layer's keys and values to its cache.

        Returns:
            Hidden states after the last norm, [tokens, hidden].
        """
        x = self._vocabulary.embed(tokens)
        cos, sin = self._rotary.angles(positions, x.dtype)
        step = StepContext(batch.slots, cos, sin, self._ops.attention(batch, self._scale))
        residual: Tensor | None = None
        for block, cache in zip(self._blocks, caches, strict=True):
            x, residual = block(x, residual, step, cache)
        return self._norm(x) if residual is None else self._norm.add(x, residual)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, hidden] -> float32 [rows, vocabulary]."""
        return self._vocabulary.logits(hidden)
