"""Counts of values up to each of some bounds, as histograms tell them: cumulative, since the process began."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any


class Tally:
    """Counts values up to each of some bounds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def numbers(self) -> dict[str, Any]:
        """Say what was counted."""
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": round(self.sum, 6)}
