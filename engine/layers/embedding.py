"""Tokens to vectors at the bottom of a model, and vectors to logits at its top."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.ops import Ops
from engine.layers.linear import TensorSource


class Vocabulary:
    """The embedding and the head, which share one weight [vocabulary, width] in a tied model.

    Press and Wolf 2017, "Using the Output Embedding to Improve Language Models", arXiv 1608.05859.
    """

    def __init__(self, ops: Ops, source: TensorSource, shape: tuple[int, int], tied: bool) -> None:
        self._ops = ops
        self._weight = source.take("model.embed_tokens.weight", *shape)
        self._head = ops.linear(self._weight if tied else source.take("lm_head.weight", *shape), None)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the weights and of what they compute."""
        return self._weight.dtype

    def embed(self, tokens: Tensor) -> Tensor:
        """int64 [tokens] -> [tokens, width]."""
        return self._ops.embedding(tokens, self._weight)

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, width] -> float32 [rows, vocabulary]."""
        return self._head(hidden).float()
