"""Rotary position embedding: the angles of each position, once per step for all layers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Stretches the slow rotations for long contexts. Section 3.4.3 and its code: Llama 3, arXiv 2407.21783."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int


class Rotary:
    """Gives `Ops.rotary` its cosines and sines."""

    def __init__(self, head_dim: int, theta: float, scaling: Llama3Scaling | None, device: torch.device) -> None:
        exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
        frequencies = 1.0 / theta**exponents
        if scaling is not None:
            frequencies = _stretch(frequencies, scaling)
        self._frequencies = frequencies.to(device)  # [head_dim / 2]

    def angles(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cos and sin [tokens, 1, head_dim] for int64 positions [tokens]; sin is negative in its first half."""
        turns = positions[:, None].float() * self._frequencies  # [tokens, head_dim / 2]
        cos, sin = turns.cos(), turns.sin()
        return torch.cat((cos, cos), -1)[:, None].to(dtype), torch.cat((-sin, sin), -1)[:, None].to(dtype)


def _stretch(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Divide low frequencies by the factor, keep high ones, blend in between."""
    turns = scaling.original_positions * frequencies / (2 * math.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = blend.clamp(0, 1)
    return frequencies * (blend + (1 - blend) / scaling.factor)
