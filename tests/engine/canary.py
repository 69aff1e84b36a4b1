"""A runner that remembers whose every KV entry is, and looks at each before it is read.

An entry is known by the group of layers whose it is, by the tokens that led to it and by a sum of its bits. So a block
that was handed to two requests or to two groups, freed early, found under a wrong prefix or written over is caught in
the step that would have read it, by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import torch

from engine.kernels.native.ops import NativeOps, cache_fits
from engine.runner.flat import FlatBatch
from engine.runner.model_runner import ModelRunner
from schemas.steps import Slice

_WORDS = {2: torch.int16, 4: torch.int32}


class Corrupted(AssertionError):
    """An entry is not what the request that reads it wrote, or found."""


class Canary(ModelRunner):
    """Checks what it reads; everything else is as in any runner."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._whose: dict[int, tuple[bytes, int]] = {}
        self._written: list[tuple[str, list[tuple[int, int, bytes]]]] = []
        self.looked = 0
        """Entries that were looked at."""

    def _compute(self, batch: FlatBatch) -> Any:
        sums = self._sums()
        for piece, row in zip(batch.slices, batch.rows.tolist(), strict=True):
            self._look(piece, row, sums)
        # a failed request's row is gone with it
        self._written = [
            (piece.request, list(self._entries(group, row, piece.start, piece.start + piece.count)))
            for piece, row in zip(batch.slices, batch.rows.tolist(), strict=True)
            for group in range(self._cache.groups)
        ]
        return super()._compute(batch)

    def _finish(self, begun: Any, errors: list[tuple[str, str]]) -> Any:
        made = super()._finish(begun, errors)
        sums = self._sums()
        failed = {name for name, _ in errors}
        for name, entries in self._written:
            for _, slot, chain in entries:
                if name in failed:
                    self._whose.pop(slot, None)
                else:
                    self._whose[slot] = (chain, sums[slot])
        return made

    def _look(self, piece: Slice, row: int, sums: list[int]) -> None:
        for group in range(self._cache.groups):
            for position, slot, chain in self._entries(group, row, self._first_seen(group, piece.start), piece.start):
                whose, known = self._whose.get(slot, (b"", 0))
                where = f"request {piece.request!r}, position {position}, block {slot // self.block_size}"
                if whose != chain:
                    raise Corrupted(f"{where}: the entry belongs to other tokens or layers")
                if known != sums[slot]:
                    raise Corrupted(f"{where}: the entry was written over")
                self.looked += 1

    def _first_seen(self, group: int, position: int) -> int:
        """Name the first position that a layer of a group sees from one."""
        config = self.config
        seen = [window for window, (of, _) in zip(config.windows, config.groups.places, strict=True) if of == group]
        return min(0 if window is None else max(0, position - window + 1) for window in seen)

    def _entries(self, group: int, row: int, first: int, end: int) -> Iterator[tuple[int, int, bytes]]:
        """Name a group's entries of some positions: position, slot, and a hash of the tokens that lead there."""
        size, chain = self.block_size, blake2b(bytes([group]), digest_size=16)
        tokens, table = self._requests._tokens[row], self._requests._tables[row][group :: self._cache.groups]
        for position in range(end):
            chain.update(int(tokens[position]).to_bytes(4, "little"))
            if position >= first:
                yield position, int(table[position // size]) * size + position % size, chain.digest()

    def _sums(self) -> list[int]:
        """Sum the bits of every entry over all layers, each word by its place."""
        memory = self._plain()
        words = memory.view(_WORDS[memory.dtype.itemsize]).flatten(1, 2).flatten(2).long()
        places = torch.arange(1, words.shape[0] * words.shape[2] + 1).view(words.shape[0], 1, -1)
        found: list[int] = (words * places).sum(dim=(0, 2)).tolist()
        return found

    def _plain(self) -> torch.Tensor:
        """Give [layers, blocks, block_size, 2, kv_heads, head_dim] in that order, whatever the ops' own is."""
        memory = self._cache._memory
        layers, blocks, size, _, heads, width = memory.shape
        if not (isinstance(self._model.ops, NativeOps) and cache_fits(size, width)):
            return memory
        pair = 2 if memory.dtype == torch.bfloat16 else 1
        parts = memory.contiguous().view(layers, blocks, heads, size // 16, 2, 16 * width)
        keys = parts[..., 0, :].unflatten(-1, (width // pair, 16, pair)).permute(0, 1, 3, 5, 2, 4, 6)
        values = parts[..., 1, :].unflatten(-1, (16 // pair, width, pair)).permute(0, 1, 3, 4, 6, 2, 5)
        shape = (layers, blocks, size, heads, width)
        return torch.stack((keys.reshape(shape), values.reshape(shape)), dim=3)
