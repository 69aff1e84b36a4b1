"""What a guard made of texts, kept in a process: looked at again at each step, and asked about once.

Of a text that stays as it is nothing is kept but its hash, so there is room for many. What was of use longest ago goes
first: a busy tenant's texts must not take the place of those that each step shows again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

_KEPT_BYTES = 16 << 20
_BESIDE = 300
"""Bytes that a verdict takes beside its texts, about."""


class Mended(NamedTuple):
    """What was left of a text, and what to note of that: classes with how often each was found."""

    text: str | None = None
    """None where it stays as it is."""
    noted: tuple[tuple[str, int], ...] = ()


class Verdicts:
    """Keeps what was made of texts, up to so many bytes."""

    def __init__(self, most: int = _KEPT_BYTES) -> None:
        self._most = most
        self._kept: OrderedDict[str, Mended] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> Mended | None:
        """Give what was made of a text, if it is kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: str, made: Mended) -> None:
        """Keep what was made of a text, and drop what was of use longest ago where there is no room."""
        if key in self._kept:
            self._bytes -= _size(self._kept.pop(key))
        self._kept[key] = made
        self._bytes += _size(made)
        while self._bytes > self._most and len(self._kept) > 1:
            self._bytes -= _size(self._kept.popitem(last=False)[1])


def _size(made: Mended) -> int:
    # characters may take four bytes each
    return _BESIDE + 4 * (len(made.text or "") + sum(len(name) for name, _ in made.noted))
