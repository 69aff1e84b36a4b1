"""Finds KV blocks that already hold a prompt's beginning.

Full blocks are keyed by a chained content hash (as in vLLM's automatic prefix caching): the hash of a block covers
its tokens and the hash of the block before it, and the chain begins with the tenant's salt. A hit is believed only
if the tokens and the predecessor are equal too, so that a collision is a miss and not somebody else's text.

A request keeps the keys of its own tokens, `keys[i + 1]` for block `i` and the salt's first, so that each is computed
once however often the request is looked up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple

from engine.core.request import LEFT

TOKEN_IDS: Final = range(1 << 32)
"""What a key can tell apart."""


class Entry(NamedTuple):
    """What a cached block holds."""

    key: bytes
    previous: bytes
    tokens: tuple[int, ...]


class PrefixCache:
    """Maps chains of full blocks to block ids. It holds no block itself: who takes an idle block tells `forget`."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._pack = Struct(f"<{block_size}I").pack
        self._by_key: dict[bytes, int] = {}
        self._entries: dict[int, Entry] = {}

    @property
    def entries(self) -> Mapping[int, Entry]:
        """What is known of blocks."""
        return self._entries

    @staticmethod
    def root(*parts: str) -> bytes:
        """Return the beginning of the chains of those who may share: a tenant, and its salt."""
        encoded = [part.encode() for part in parts]
        return blake2b(b"".join(len(part).to_bytes(8, "little") + part for part in encoded), digest_size=16).digest()

    def extend(self, keys: list[bytes], tokens: Sequence[int], blocks: int) -> None:
        """Append to `keys` until it has those of the first `blocks` blocks of `tokens`, which must be full."""
        size = self._block_size
        for start in range((len(keys) - 1) * size, blocks * size, size):
            content = self._pack(*tokens[start : start + size])
            keys.append(blake2b(keys[-1] + content, digest_size=16).digest())

    def match(self, keys: list[bytes], tokens: Sequence[int], window: int | None = None) -> list[int]:
        """Return the blocks that hold the longest known beginning of `tokens`; extends `keys` as needed.

        The last token is never among them: something must be computed for there to be a next token. With a `window`
        only what a position after the beginning sees must be known of it: for blocks before that stands `LEFT`.
        """
        if window is not None:
            return self._match_end(keys, tokens, window)
        size = self._block_size
        found: list[int] = []
        for index in range((len(tokens) - 1) // size):
            self.extend(keys, tokens, index + 1)
            block = self._by_key.get(keys[index + 1])
            if block is None or self._entries[block] != self._entry(keys, tokens, index):
                break
            found.append(block)
        return found

    def _match_end(self, keys: list[bytes], tokens: Sequence[int], window: int) -> list[int]:
        size = self._block_size
        table, found, first, known_from = list[int](), 0, 0, 0
        for index in range((len(tokens) - 1) // size):
            self.extend(keys, tokens, index + 1)
            block = self._by_key.get(keys[index + 1])
            known = block is not None and self._entries[block] == self._entry(keys, tokens, index)
            table.append(block if block is not None and known else LEFT)
            seen = max(0, (index + 1) * size - window + 1) // size
            known_from = known_from if known else index + 1
            if known_from <= seen:
                found, first = index + 1, seen
        return [LEFT] * first + table[first:found]

    def enter(self, keys: list[bytes], tokens: Sequence[int], index: int, block: int) -> bool:
        """Note that `block` holds block `index` of `tokens`; False if another one is known to, or to seem to."""
        self.extend(keys, tokens, index + 1)
        if keys[index + 1] in self._by_key or block in self._entries:
            return False
        self._by_key[keys[index + 1]] = block
        self._entries[block] = self._entry(keys, tokens, index)
        return True

    def _entry(self, keys: list[bytes], tokens: Sequence[int], index: int) -> Entry:
        size = self._block_size
        return Entry(keys[index + 1], keys[index], tuple(tokens[index * size : (index + 1) * size]))

    def forget(self, block: int) -> None:
        """The known block is about to be overwritten."""
        del self._by_key[self._entries.pop(block).key]

    def check(self) -> None:
        """Fail if keys and blocks do not point at each other."""
        assert {entry.key: block for block, entry in self._entries.items()} == self._by_key
        assert all(len(entry.tokens) == self._block_size for entry in self._entries.values())
