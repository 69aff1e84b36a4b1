"""Finds KV blocks that already hold a prompt's beginning.

Full blocks are keyed by a chained content hash (as in vLLM's automatic prefix caching): the hash of a block covers
its tokens and the hash of the block before it, and the chain begins with the tenant's salt. A hit is believed only
if the tokens and the predecessor are equal too, so that a collision is a miss and not somebody else's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple


class Entry(NamedTuple):
    """What a cached block holds."""

    key: bytes
    previous: bytes
    tokens: tuple[int, ...]


class PrefixCache:
    """Maps chains of full blocks to block ids. It holds no block itself: who takes an idle block tells `forget`."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._by_key: dict[bytes, int] = {}
        self._entries: dict[int, Entry] = {}

    def __len__(self) -> int:
        """How many blocks have known content."""
        return len(self._entries)

    @staticmethod
    def root(salt: str) -> bytes:
        """Return the beginning of a tenant's chains."""
        return blake2b(salt.encode(), digest_size=16).digest()

    @staticmethod
    def chain(previous: bytes, tokens: Sequence[int]) -> bytes:
        """Return the key of a block from its predecessor's key and its tokens (ids below 2**32)."""
        content = b"".join(token.to_bytes(4, "little") for token in tokens)
        return blake2b(previous + content, digest_size=16).digest()

    def match(self, salt: str, tokens: Sequence[int]) -> tuple[list[int], bytes]:
        """Return the blocks that hold the longest known beginning of `tokens`, and the key of the last of them.

        The last token is never among them: something must be computed for there to be a next token.
        """
        found: list[int] = []
        previous = self.root(salt)
        size = self._block_size
        for start in range(0, len(tokens) - size, size):
            content = tuple(tokens[start : start + size])
            key = self.chain(previous, content)
            block = self._by_key.get(key)
            if block is None or self._entries[block] != Entry(key, previous, content):
                break
            found.append(block)
            previous = key
        return found, previous

    def enter(self, block: int, previous: bytes, tokens: tuple[int, ...]) -> bytes:
        """Note what a full block holds; return its key. Content that another block holds already is not noted twice."""
        key = self.chain(previous, tokens)
        if key not in self._by_key and block not in self._entries:
            self._by_key[key] = block
            self._entries[block] = Entry(key, previous, tokens)
        return key

    def forget(self, block: int) -> None:
        """The block is about to be overwritten."""
        entry = self._entries.pop(block, None)
        if entry is not None:
            del self._by_key[entry.key]

    def reset(self) -> None:
        """Forget everything: the KV memory is gone."""
        self._by_key.clear()
        self._entries.clear()

    def check(self) -> None:
        """Fail if keys and blocks do not point at each other."""
        assert {entry.key: block for block, entry in self._entries.items()} == self._by_key
        assert all(len(entry.tokens) == self._block_size for entry in self._entries.values())
