"""Texts as vectors: the port, and an embedder that needs no model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import sqrt
from typing import Protocol

_WORD = re.compile(r"\w+")
_ROOM = 1_000_000
"""Characters of one text that are looked at."""


class Embedder(Protocol):
    """Makes vectors of length one: the nearer two texts are, the nearer to 1 is their product."""

    @property
    def name(self) -> str:
        """Which vectors may be compared: those of one name. It goes with the model, and is kept beside each vector."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a vector for each text, in their order. The same text gets the same vector, always."""


@dataclass(frozen=True, slots=True)
class WordEmbedder:
    """Counts words and beginnings of words, by their hashes: near is what uses the same words.

    It knows nothing of meanings, needs no model, and gives the same everywhere.
    """

    width: int = 256

    @property
    def name(self) -> str:
        """Which vectors may be compared."""
        return f"words-{self.width}"

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a vector for each text."""
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> list[float]:
        counts = [0.0] * self.width
        for word in _WORD.findall(text[:_ROOM].lower()):
            for part, weight in ((word, 1.0), (word[:5], 0.5)):
                digest = int.from_bytes(blake2b(part.encode(), digest_size=8).digest(), "big")
                counts[digest % self.width] += weight if digest >> 63 else -weight
        length = sqrt(sum(count * count for count in counts))
        return [count / length for count in counts] if length else [1.0, *([0.0] * (self.width - 1))]
