"""Tokens to vectors at the bottom of a model, and vectors to logits at its top.

Press and Wolf 2017, "Using the Output Embedding to Improve Language Models", arXiv 1608.05859, for the weight that
both share in a tied model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.ops import Ops
from engine.kernels.weights import Weight
from engine.layers.linear import TensorSource


class Embedding:
    """A learned vector for every token."""

    def __init__(self, ops: Ops, source: TensorSource, shape: tuple[int, int], scale: float | None) -> None:
        """Load the weight [vocabulary, width] = `shape`; vectors are multiplied by `scale`, if there is one."""
        self._ops = ops
        self.weight = source.take("model.embed_tokens.weight", *shape)
        # rounded to the number format first, as it was in training
        self._scale = None if scale is None else torch.tensor(scale, dtype=self.weight.dtype).item()

    def __call__(self, tokens: Tensor) -> Tensor:
        """int64 [tokens] -> [tokens, width]."""
        found = self._ops.embedding(tokens, self.weight)
        return found if self._scale is None else found * self._scale


class Head:
    """Judges every token of the vocabulary."""

    def __init__(self, ops: Ops, weight: Weight, cap: float | None) -> None:
        """Take the weight [vocabulary, width]; logits stay between minus `cap` and `cap`, if there is one."""
        self._product = ops.linear(weight, None, wide=True)
        self._cap = cap

    def __call__(self, hidden: Tensor) -> Tensor:
        """[rows, width] -> float32 [rows, vocabulary]."""
        logits = self._product(hidden)
        return logits if self._cap is None else logits.div_(self._cap).tanh_().mul_(self._cap)
