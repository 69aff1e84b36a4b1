"""Finds KV blocks that already hold a prompt's beginning.

Full blocks are keyed by a chained content hash (as in vLLM's automatic prefix caching): the hash of a block covers
its tokens and the hash of the block before it, and the chain begins with the tenant's salt. A hit is believed only
if the tokens and the predecessor are equal too, so that a collision is a miss and not somebody else's text.

The last row of a request that is over is seldom full. What there is of it is a tail: it can be found, too, by whoever
comes first and goes on from there. He writes behind it, so it is his alone from then on.

Where layers are in several groups a row of blocks, one of each, holds the same tokens. Each of them is known or not by
itself, since they are given up and overwritten one by one.

A request keeps the keys of its own tokens, `keys[i + 1]` for block `i` and the salt's first, so that each is computed
once however often the request is looked up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple

from engine.core.request import LEFT
from engine.core.tables import Tables

TOKEN_IDS: Final = range(1 << 32)
"""What a key can tell apart."""


class Row(NamedTuple):
    """What is known of one block of tokens after some beginning."""

    previous: bytes
    tokens: tuple[int, ...]
    blocks: list[int]
    """The block of each group that holds it; `LEFT` where none does."""


class PrefixCache:
    """Maps chains of full blocks, and tails behind them, to block ids.

    It holds no block itself: who takes an idle block tells `forget`.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._pack = Struct(f"<{tables.block_size}I").pack
        self._rows: dict[bytes, Row] = {}
        self._places: dict[int, tuple[bytes, int]] = {}
        self._tails: dict[bytes, bytes] = {}
        """By the key of the row before it, that of the tail there."""

    @property
    def places(self) -> Mapping[int, tuple[bytes, int]]:
        """Of blocks whose content is known: the key of their row, and their group."""
        return self._places

    @staticmethod
    def root(*parts: str) -> bytes:
        """Return the beginning of the chains of those who may share: a tenant, and its salt."""
        encoded = [part.encode() for part in parts]
        return blake2b(b"".join(len(part).to_bytes(8, "little") + part for part in encoded), digest_size=16).digest()

    def extend(self, keys: list[bytes], tokens: Sequence[int], blocks: int) -> None:
        """Append to `keys` until it has those of the first `blocks` blocks of `tokens`, which must be full."""
        size = self._tables.block_size
        for start in range((len(keys) - 1) * size, blocks * size, size):
            content = self._pack(*tokens[start : start + size])
            keys.append(blake2b(keys[-1] + content, digest_size=16).digest())

    def knows(self, key: bytes) -> bool:
        """Say whether something is known of the row with a key."""
        return key in self._rows

    def match(self, keys: list[bytes], tokens: Sequence[int]) -> list[int]:
        """Return rows of blocks that hold the longest known beginning of `tokens`; extends `keys` as needed.

        The last token is never among them: something must be computed for there to be a next token. Of groups with a
        window only what a position after the beginning sees must be known: for blocks before that stands `LEFT`.
        """
        size, full, windowed = self._tables.block_size, self._tables.full, self._tables.windowed
        table, found, first, known_from = list[int](), 0, 0, 0
        for index in range((len(tokens) - 1) // size):
            self.extend(keys, tokens, index + 1)
            row = self._row(keys, tokens, index)
            known = row.blocks if row is not None else [LEFT] * (full + windowed)
            if LEFT in known:
                if LEFT in known[:full]:
                    break
                known_from = index + 1
            table += known
            seen = self._tables.first_seen((index + 1) * size)
            if known_from <= seen:
                found, first = index + 1, seen
        for index in range(first):
            begin = index * (full + windowed) + full
            table[begin : begin + windowed] = [LEFT] * windowed
        return table[: found * (full + windowed)]

    def tail(self, keys: list[bytes], tokens: Sequence[int], rows: int) -> tuple[list[int], int]:
        """Return the blocks of a tail after the first `rows` rows, which `match` found, and how many `tokens` it holds.

        Where its tokens part from these, what is before that is of use. The last token is never among them.
        """
        row = self.tail_after(keys[rows])
        if row is None or LEFT in row.blocks:
            return [], 0
        begin = rows * self._tables.block_size
        wanted = tokens[begin : min(begin + len(row.tokens), len(tokens) - 1)]
        pairs = enumerate(zip(wanted, row.tokens, strict=False))
        same = next((at for at, (one, other) in pairs if one != other), len(wanted))
        return (row.blocks[:], same) if same else ([], 0)

    def shared(self, keys: list[bytes], tokens: Sequence[int], rows: int) -> int:
        """Count the rows of a beginning that groups whose layers see all know, of which the first `rows` are known."""
        full = self._tables.full
        for index in range(rows, (len(tokens) - 1) // self._tables.block_size):
            self.extend(keys, tokens, index + 1)
            row = self._row(keys, tokens, index)
            if row is None or LEFT in row.blocks[:full]:
                return index
            rows = index + 1
        return rows

    def _row(self, keys: list[bytes], tokens: Sequence[int], index: int) -> Row | None:
        """Find what is known of a block of tokens; a row that only seems to be of them is none."""
        row = self._rows.get(keys[index + 1])
        return row if row is not None and row[:2] == self._content(keys, tokens, index) else None

    def enter(self, keys: list[bytes], tokens: Sequence[int], index: int, blocks: Sequence[int]) -> list[int]:
        """Note that a row of blocks holds block `index` of `tokens`; return those that were not known to.

        None is noted of which another one in its group is known to hold the same, or to seem to, nor `LEFT`.
        """
        self.extend(keys, tokens, index + 1)
        key, content = keys[index + 1], self._content(keys, tokens, index)
        row = self._rows.setdefault(key, Row(*content, [LEFT] * len(blocks)))
        if row[:2] != content:
            return []
        noted = []
        for group, block in enumerate(blocks):
            if row.blocks[group] == LEFT != block and block not in self._places:
                row.blocks[group] = block
                self._places[block] = (key, group)
                noted.append(block)
        self._drop_unknown(key)
        return noted

    def tail_after(self, key: bytes) -> Row | None:
        """What is known of a tail after the row with a key."""
        found = self._tails.get(key)
        return None if found is None else self._rows[found]

    def enter_tail(self, previous: bytes, tokens: tuple[int, ...], blocks: Sequence[int]) -> bool:
        """Note that a row of blocks holds `tokens`, too few for a whole one, after the row with the key `previous`.

        Nothing is known of another tail there, nor of these blocks. False if something else only seems to be this tail.
        """
        packed = Struct(f"<{len(tokens)}I").pack(*tokens)
        key = blake2b(previous + packed, digest_size=16).digest()
        if key in self._rows:
            return False
        self._rows[key], self._tails[previous] = Row(previous, tokens, list(blocks)), key
        self._places.update({block: (key, group) for group, block in enumerate(blocks)})
        return True

    def _content(self, keys: list[bytes], tokens: Sequence[int], index: int) -> tuple[bytes, tuple[int, ...]]:
        size = self._tables.block_size
        return keys[index], tuple(tokens[index * size : (index + 1) * size])

    def _drop_unknown(self, key: bytes) -> None:
        """Let a row be none of whose blocks are known."""
        row = self._rows[key]
        if row.blocks.count(LEFT) == len(row.blocks):
            del self._rows[key]
            if self._tails.get(row.previous) == key:
                del self._tails[row.previous]

    def forget(self, block: int) -> None:
        """The known block is about to be overwritten."""
        key, group = self._places.pop(block)
        self._rows[key].blocks[group] = LEFT
        self._drop_unknown(key)

    def check(self) -> None:
        """Fail if rows and blocks do not point at each other."""
        found = {
            block: (key, group)
            for key, row in self._rows.items()
            for group, block in enumerate(row.blocks)
            if block != LEFT
        }
        assert found == self._places
        for previous, key in self._tails.items():
            assert self._rows[key].previous == previous
        tails = set(self._tails.values())
        for key, row in self._rows.items():
            assert (len(row.tokens) < self._tables.block_size) == (key in tails)
            assert len(row.blocks) == self._tables.groups
            assert set(row.blocks) != {LEFT}
