"""Whole texts to hidden states, through a decoder's trunk as through an encoder: nothing is kept between two calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from engine.kernels.batch import PagedBatch
from engine.models.decoder import Trunk
from engine.models.encoders import Encoder

_BLOCK: Final = 16


class States(Protocol):
    """Computes texts that follow one another, the shorter ones ahead."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def width(self) -> int:
        """Of a state."""

    @property
    def context_length(self) -> int:
        """Tokens of a text at most."""

    def __call__(self, tokens: Tensor, segments: Tensor, counts: Sequence[int]) -> Tensor:
        """int64 [tokens] twice, of texts of `counts` tokens -> [tokens, width]."""


class BothWays:
    """An encoder's."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.device = encoder.device
        self.width = encoder.config.hidden
        self.context_length = encoder.config.context_length

    def __call__(self, tokens: Tensor, segments: Tensor, counts: Sequence[int]) -> Tensor:
        """int64 [tokens] twice, of texts of `counts` tokens -> [tokens, width]."""
        return self._encoder.forward(tokens, _positions(counts).to(self.device), segments, counts)


class Causal:
    """A decoder's: every token sees those before it.

    A layer's keys and values are of no use to the next, so that all layers write to one cache. Block 0 is what tables
    are filled up with: nothing is ever written to it, and numbers of one text that are not finite reach no other.
    """

    def __init__(self, trunk: Trunk) -> None:
        self._trunk = trunk
        self.device = trunk.device
        self.width = trunk.config.hidden
        self.context_length = trunk.config.context_length

    def __call__(self, tokens: Tensor, segments: Tensor, counts: Sequence[int]) -> Tensor:
        """int64 [tokens] twice, of texts of `counts` tokens -> [tokens, width]; segments mean nothing here."""
        config = self._trunk.config
        lengths = np.array(counts, np.int64)
        held = -(-lengths // _BLOCK)
        first = 1 + np.cumsum(held) - held  # block of each text
        columns = np.arange(held.max())
        tables = np.where(columns < held[:, None], first[:, None] + columns, 0)
        positions = _positions(counts)
        slots = torch.from_numpy(np.repeat(first * _BLOCK, lengths)) + positions
        batch = PagedBatch(slots.to(self.device), torch.from_numpy(tables).to(self.device), lengths, lengths, _BLOCK)
        shape = (1 + int(held.sum()), _BLOCK, 2, config.kv_heads, config.head_dim)
        cache = torch.zeros(shape, dtype=self._trunk.dtype, device=self.device)
        batches = [batch] * config.groups.count
        return self._trunk.forward(tokens, positions.to(self.device), batches, [cache] * config.layers)


def _positions(counts: Sequence[int]) -> Tensor:
    """Return int64 [tokens]: each token's place in its own text."""
    return torch.cat([torch.arange(count) for count in counts])
