"""Rotary position embedding: the angles of each position, once per step for all layers that turn alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.whole import Turn
from engine.layers.stretching import DynamicNtk, Stretch, plain_frequencies


@dataclass(frozen=True, slots=True)
class Rope:
    """How a layer turns its queries and keys."""

    width: int
    """The first so many entries of a head turn, the others stay as they are."""
    theta: float
    stretch: Stretch | DynamicNtk | None = None
    """What was done to the rotations for longer contexts than the first training had."""


class Rotary:
    """Gives `Ops.rotary` its cosines and sines."""

    def __init__(self, rope: Rope, context: int, device: torch.device) -> None:
        """Compute the frequencies of a model that is to serve `context` positions."""
        self._dynamic = rope.stretch if isinstance(rope.stretch, DynamicNtk) else None
        self._width, self._theta = rope.width, rope.theta
        if rope.stretch is None or isinstance(rope.stretch, DynamicNtk):
            frequencies, self._magnitude = plain_frequencies(rope.width, rope.theta), 1.0
        else:
            frequencies = rope.stretch.frequencies(rope.width, rope.theta, context)
            self._magnitude = rope.stretch.magnitude
        self._frequencies = frequencies.to(device)  # [width / 2]

    @property
    def turn(self) -> Turn | None:
        """How it turns, if that is the same for every position."""
        return None if self._dynamic is not None else Turn(self._frequencies, self._magnitude)

    def angles(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cos and sin [tokens, 1, width] for int64 positions [tokens]; sin is negative in its first half."""
        frequencies = self._frequencies
        if self._dynamic is not None:
            frequencies = self._dynamic.frequencies(self._width, self._theta, positions)  # [tokens, width / 2]
        turns = positions[:, None].float() * frequencies  # [tokens, width / 2]
        cos, sin = turns.cos() * self._magnitude, turns.sin() * self._magnitude
        return torch.cat((cos, cos), -1)[:, None].to(dtype), torch.cat((-sin, sin), -1)[:, None].to(dtype)
