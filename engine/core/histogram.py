"""How long something takes, or how large it gets: what was seen lately, in bins that grow with the values."""

from __future__ import annotations

from typing import Final

_DECAY: Final = 0.99
"""What an observation still counts once another one is made: the last few hundred are what is known."""
_RESCALED_ABOVE: Final = 1e12
ENOUGH: Final = 3.0
"""Observations, aged ones for less, from which something is concluded."""


class Histogram:
    """Positive integers, two bins to each doubling.

    Bins and sums are of integers and of plain additions, multiplications and divisions of doubles, so that two machines
    that saw the same conclude the same.
    """

    def __init__(self) -> None:
        self._counts: dict[int, float] = {}
        self._sums: dict[int, float] = {}
        self._one = 1.0
        """What an observation counts now; older ones count less by comparison."""
        self._above: list[tuple[float, float]] | None = None

    def add(self, value: int) -> None:
        """Observe one."""
        self._one /= _DECAY
        if self._one > _RESCALED_ABOVE:
            self._counts = {at: count / self._one for at, count in self._counts.items()}
            self._sums = {at: total / self._one for at, total in self._sums.items()}
            self._one = 1.0
        at = _bin(max(value, 1))
        self._counts[at] = self._counts.get(at, 0.0) + self._one
        self._sums[at] = self._sums.get(at, 0.0) + self._one * max(value, 1)
        self._above = None

    @property
    def mean(self) -> float | None:
        """The mean; None while too little is known."""
        return self.mean_above(0)

    def share_above(self, least: int) -> float:
        """The share of those that are more than `least`; 1 while nothing is known, and never nothing."""
        above = self._above if self._above is not None else self._summed()
        at = _bin(least) if least > 0 else 0
        count = self._count_above(at, least) if at < len(above) else 0.0
        return (count + self._one) / (above[0][0] + self._one)

    def mean_above(self, least: int) -> float | None:
        """The mean of those that are more than `least`; None where too little is known of such."""
        above = self._above if self._above is not None else self._summed()
        at = _bin(least) if least > 0 else 0
        if at >= len(above):
            return None
        count, total = self._count_above(at, least), above[at][1]
        below = above[at][0] - count
        if below:
            total -= below * (_low(at) + least) / 2
        if count < ENOUGH * self._one:
            return None
        return max(total / count, float(least))

    def _count_above(self, at: int, least: int) -> float:
        """Of the bin that `least` is in some are above it: they are taken to be spread evenly."""
        assert self._above is not None
        low, high = _low(at), _low(at + 1)
        if least <= low or at not in self._counts:
            return self._above[at][0]
        return self._above[at][0] - self._counts[at] * (least - low) / (high - low)

    def _summed(self) -> list[tuple[float, float]]:
        """For each bin, count and sum of it and all above."""
        above = [(0.0, 0.0)] * (max(self._counts, default=-1) + 2)
        for at in reversed(range(len(above) - 1)):
            count, total = above[at + 1]
            above[at] = (count + self._counts.get(at, 0.0), total + self._sums.get(at, 0.0))
        self._above = above
        return above


def _bin(value: int) -> int:
    bits = value.bit_length()
    return 2 * bits + (value >> (bits - 2) & 1 if bits > 1 else 0)


def _low(at: int) -> int:
    """The smallest value of a bin."""
    bits, upper = divmod(at, 2)
    return (2 + upper) << (bits - 2) if bits > 1 else bits
