"""Vectors by our own engine, from any embedding checkpoint. Importing this loads torch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from engine.pooling import Pooler, load_pooler


class PooledEmbedder:
    """An `Embedder` that is a checkpoint, a folder or a hub id; it is loaded when first used."""

    def __init__(self, model: str, dimensions: int | None = None, device: str = "auto") -> None:
        """Name it.

        Args:
            model: an encoder, or a decoder whose states are to be pooled.
            dimensions: only so many of each vector, for models that were trained for it.
            device: as `engine.pooling.load_pooler` takes it.
        """
        self._model = model
        self._dimensions = dimensions
        self._device = device
        self._pooler: Pooler | None = None
        self._one_at_a_time = asyncio.Lock()

    @property
    def name(self) -> str:
        """Which vectors may be compared."""
        return f"{Path(self._model).name}-{self._dimensions or 'all'}"

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a vector for each text; a text that is too long is cut."""
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._embed, texts)

    def _embed(self, texts: Sequence[str]) -> list[list[float]]:
        if self._pooler is None:
            self._pooler = load_pooler(self._model, device=self._device)
        vectors = self._pooler.embed([text or " " for text in texts], dimensions=self._dimensions)
        return [vector.tolist() for vector in vectors]
