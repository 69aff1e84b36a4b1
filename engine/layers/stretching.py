"""How rotations are slowed so that a model reaches further than its first training did.

Each kind is what `transformers` computes under the `rope_type` of that name, except that nothing here depends on how
long a sequence happens to be: keys stay in the cache as they were turned, and other requests may share them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Stretch(Protocol):
    """Frequencies that are the same at every position."""

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied by."""

    def frequencies(self, width: int, theta: float, context: int) -> Tensor:
        """Return float32 [width / 2] for a model that is to serve `context` positions."""


@dataclass(frozen=True, slots=True)
class Linear:
    """Positions are divided by a factor. Chen et al. 2023, arXiv 2306.15595."""

    factor: float
    magnitude: float = 1.0

    def frequencies(self, width: int, theta: float, context: int) -> Tensor:
        """See `Stretch`."""
        return plain_frequencies(width, theta) / self.factor


@dataclass(frozen=True, slots=True)
class Llama3:
    """Slow rotations are stretched, fast ones kept. Section 3.4.3 and its code: Llama 3, arXiv 2407.21783."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int
    magnitude: float = 1.0

    def frequencies(self, width: int, theta: float, context: int) -> Tensor:
        """Divide low frequencies by the factor, keep high ones, blend in between."""
        plain = plain_frequencies(width, theta)
        turns = self.original_positions * plain / (2 * math.pi)
        blend = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        blend = blend.clamp(0, 1)
        return plain * (blend + (1 - blend) / self.factor)


@dataclass(frozen=True, slots=True)
class Yarn:
    """As Llama 3's, by index instead of frequency, and with sharper attention. Peng et al. 2023, arXiv 2309.00071."""

    factor: float
    original_positions: int
    magnitude: float
    fast_turns: float = 32.0
    """Pairs that turn more often than this within the original positions are kept."""
    slow_turns: float = 1.0
    """Pairs that turn less often are stretched by the whole factor."""
    whole: bool = True
    """The borders lie at whole indices."""

    def frequencies(self, width: int, theta: float, context: int) -> Tensor:
        """Blend along the index of a pair, between the two that turn as often as the borders say."""
        plain = plain_frequencies(width, theta)
        first, last = self._border(self.fast_turns, width, theta), self._border(self.slow_turns, width, theta)
        if self.whole:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, width - 1)
        if first == last:
            last += 0.001
        stretched = ((torch.arange(width // 2, dtype=torch.float32) - first) / (last - first)).clamp(0, 1)
        return plain / self.factor * stretched + plain * (1 - stretched)

    def _border(self, turns: float, width: int, theta: float) -> float:
        """Return the index of the pair that turns so often within the original positions."""
        return width * math.log(self.original_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))


@dataclass(frozen=True, slots=True)
class LongRope:
    """Each pair has a factor that was searched for. Ding et al. 2024, arXiv 2402.13753.

    There are two sets: one for sequences within the original positions, one for longer ones. A model that is to serve
    more than the original positions uses the second for all of its requests.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_positions: int
    magnitude: float

    def frequencies(self, width: int, theta: float, context: int) -> Tensor:
        """See `Stretch`."""
        factors = self.long if context > self.original_positions else self.short
        return plain_frequencies(width, theta) / torch.tensor(factors, dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class DynamicNtk:
    """Beyond the positions of training theta grows with the position, so that short sequences lose nothing.

    bloc97 and emozilla 2023. Here a position has the theta of a sequence that ends there: what `transformers`
    computes token by token.
    """

    factor: float
    positions: int
    """Those of training."""

    def frequencies(self, width: int, theta: float, positions: Tensor) -> Tensor:
        """Return float32 [tokens, width / 2] for int64 positions [tokens]."""
        lengths = (positions + 1).clamp(min=self.positions)
        growth = (self.factor * lengths / self.positions) - (self.factor - 1)
        thetas = theta * growth ** (width / (width - 2))
        return 1.0 / thetas[:, None] ** _exponents(width, positions.device)


def plain_frequencies(width: int, theta: float) -> Tensor:
    """Return float32 [width / 2], the turns in radian per position without any stretching."""
    exponents = _exponents(width, torch.device("cpu"))
    return 1.0 / theta**exponents


def _exponents(width: int, device: torch.device) -> Tensor:
    """Return float32 [width / 2] from 0 to 1."""
    return torch.arange(0, width, 2, dtype=torch.int64, device=device).float() / width
