"""The KV memory as requests see it: a table of blocks that begins with a cached prefix and grows step by step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from engine.config import SchedulerConfig
from engine.core.blocks import BlockPool
from engine.core.prefix_cache import PrefixCache
from engine.core.request import LEFT, Request
from engine.core.tables import Tables, tables_within


class Keeper(Protocol):
    """Chooses which content of idle blocks is given up."""

    def make_room(self, count: int) -> None:
        """Some blocks are about to be taken, so many of them with content: have it `Memory.spend` the right ones."""

    def overwritten(self, block: int) -> None:
        """What was in a block is there no more."""


class Memory:
    """Gives requests their blocks. A request alone writes its table, but for the cached prefix, which nobody does."""

    def __init__(self, blocks: int, tables: Tables, watermark: float = 0.0, least_tail: int = 1) -> None:
        """Make one in which nothing is known.

        Args:
            blocks: how many there are.
            tables: the shape of requests' tables.
            watermark: share of the blocks that new requests leave to those that run.
            least_tail: tokens of a row that is not full for it to be found again.
        """
        self.size = blocks
        self.tables = tables
        self._groups = tables.groups
        self._least_tail = least_tail
        self.watermark = int(blocks * watermark)
        """Blocks that new requests leave to those that run."""
        self.keeper: Keeper | None = None
        """Who chooses what is given up; without one it is what was idle for longest."""
        self.cache = PrefixCache(tables)
        self._pool = BlockPool(blocks, self._overwritten)

    def _overwritten(self, block: int) -> None:
        self.cache.forget(block)
        if self.keeper is not None:
            self.keeper.overwritten(block)

    def spend(self, blocks: Sequence[int]) -> int:
        """Have the content of blocks be given up before that of others, the last of them first; count those idle."""
        before = self._pool.spare
        self._pool.spend(blocks)
        return self._pool.spare - before

    @property
    def idle(self) -> int:
        """Blocks that could be taken now."""
        return self._pool.idle

    @property
    def cached(self) -> int:
        """Blocks whose content can be found."""
        return len(self.cache.places)

    def missing(self, request: Request) -> int:
        """Count the blocks that a running request will soon want: those for its tokens, and a row to grow into.

        In crowds of growing answers the one saved a fifth to a half of what was computed twice, for at most 4 % more
        steps.
        """
        tokens = min(len(request.tokens) + self.tables.block_size, request.limit)
        return self.tables.wanted(tokens, len(request.blocks) // self._groups, request.left)

    def promised(self, running: Collection[Request]) -> int:
        """Count the blocks that are for running requests to grow into."""
        return (self.watermark if running else 0) + sum(self.missing(request) for request in running)

    def lacking(self, request: Request, spared: int) -> int:
        """Count the blocks that must be given up for a waiting request to begin; 0 if it could now.

        It begins only if all its tokens fit. Blocks already promised to others, `spared`, do not count as room.
        """
        return self._fit(request, spared)[2]

    def open(self, request: Request, spared: int) -> bool:
        """Give a waiting request the blocks of its cached prefix, if it does not lack any. False changes nothing."""
        found, (tail, more), lacking = self._fit(request, spared)
        if lacking:
            return False
        rows = len(found) // self._groups
        request.blocks, request.entered = found + tail, rows
        request.computed = request.settled = rows * self.tables.block_size + more
        request.left = self.tables.first_seen(request.settled)
        self._pool.hold(request.held)
        self._lose(tail)
        if self.tables.full and self.tables.windowed:
            request.shared = self.cache.shared(request.keys, request.findable, rows)
        request.recomputed += max(request.lost - request.computed, 0)
        return True

    def _fit(self, request: Request, spared: int) -> tuple[list[int], tuple[list[int], int], int]:
        """Find a request's cached prefix, the tail after it and the tokens there; count what it lacks beside them."""
        found = self.cache.match(request.keys, request.findable)
        rows = len(found) // self._groups
        tail, more = self.cache.tail(request.keys, request.findable, rows)
        left = self.tables.first_seen(rows * self.tables.block_size)
        idle = self._pool.idle_among(block for block in (*found, *tail) if block != LEFT)
        needed = self.tables.wanted(len(request.tokens), rows + bool(tail), left) + idle
        return found, (tail, more), max(needed + spared - self._pool.idle, 0)

    def gained(self, victim: Request, request: Request) -> int:
        """Count the blocks that a waiting request lacks no more once a running one has given way.

        Those of its own cached prefix are none: it holds them then. What was promised to the victim is.
        """
        prefix, (tail, _), _ = self._fit(request, 0)
        found = {*prefix, *tail}
        return self._pool.held_once(block for block in victim.held if block not in found) + self.missing(victim)

    def grow(self, request: Request, end: int) -> tuple[int, ...] | None:
        """Extend a request's table to positions `[0, end)`; return the blocks added, None if there are too few."""
        if end * self._groups <= len(request.blocks) * self.tables.block_size:
            return ()
        needed = self.tables.rows(end) * self._groups - len(request.blocks)
        if self.keeper is not None and self._pool.spare < needed <= self._pool.idle:
            self.keeper.make_room(needed - self._pool.spare)
        taken = self._pool.take(needed)
        if taken is None:
            return None
        request.blocks += taken
        return tuple(taken)

    def settle(self, request: Request, settled: int) -> None:
        """Note that the first positions of a request are computed: full blocks can be found, and such that no position
        to come sees are given up.
        """
        request.settled = settled
        if settled >= (request.entered + 1) * self.tables.block_size:
            self._enter(request)
        if self.tables.windowed:
            self._leave(request, self.tables.first_seen(settled))

    def _enter(self, request: Request) -> None:
        full, groups = request.settled // self.tables.block_size, self._groups
        for index in range(request.entered, full):
            row = request.blocks[index * groups : (index + 1) * groups]
            for block in self.cache.enter(request.keys, request.tokens, index, row):
                self._pool.keep(block)
        request.entered = full

    def _leave(self, request: Request, first: int) -> None:
        """Give up the blocks of groups with a window before a row: the last first, as in `BlockPool.release`.

        Few of them will be found again: in all of a text one window is seen where another text parts from it. Where
        one has, the blocks of that window are worth as much as others; what else is left is used again before. Without
        a group that sees all nothing tells where that was.
        """
        parted = range(self.tables.first_seen(request.shared * self.tables.block_size), request.shared)
        for index in reversed(range(request.left, first)):
            begin, end = index * self._groups + self.tables.full, (index + 1) * self._groups
            give_up = self._pool.leave if self.tables.full and index not in parted else self._pool.release
            give_up(request.blocks[begin:end])
            request.blocks[begin:end] = [LEFT] * self.tables.windowed
        request.left = max(request.left, first)

    def leave_tail(self, request: Request) -> None:
        """Have what a request computed of its last row be found; for one that is about to be closed.

        Of two at one place that begin alike the longer one stays, else the new one.
        """
        tokens = tuple(request.tokens[request.entered * self.tables.block_size : request.settled])
        if len(tokens) < self._least_tail or self.tables.windowed:
            return
        self.cache.extend(request.keys, request.tokens, request.entered)
        previous = request.keys[request.entered]
        other = self.cache.tail_after(previous)
        if other is not None:
            if LEFT not in other.blocks and other.tokens[: len(tokens)] == tokens:
                return
            self._lose([block for block in other.blocks if block != LEFT])
        row = request.blocks[request.entered * self._groups : (request.entered + 1) * self._groups]
        if self.cache.enter_tail(previous, tokens, row):
            for block in row:
                self._pool.keep(block)

    def close(self, request: Request) -> None:
        """Take a request's blocks back; what can be found in them stays so until they are overwritten."""
        self._pool.release(request.held)
        # what it was to compute again and did not come to was not computed twice, and is still to be
        request.recomputed -= max(request.lost - request.computed, 0)
        request.lost = max(request.lost, request.settled)
        request.blocks = []
        request.left = request.computed = request.settled = request.entered = request.shared = 0

    def forget(self) -> int:
        """Let nothing that is in memory now be found any more; return how many blocks could be until now."""
        known = list(self.cache.places)
        self._lose(known)
        return len(known)

    def _lose(self, blocks: Iterable[int]) -> None:
        """Let what is in some blocks not be found any more."""
        for block in blocks:
            self._overwritten(block)
            self._pool.unkeep(block)

    def check(self, running: Iterable[Request]) -> None:
        """Fail if a block leaked, was freed early, or may be written by two requests."""
        requests = list(running)
        self._pool.check((request.held for request in requests), self.cache.places)
        self.cache.check()
        writers: dict[int, str] = {}
        for request in requests:
            self._check_table(request)
            for block in request.blocks[request.settled // self.tables.block_size * self.tables.groups :]:
                other = writers.setdefault(block, request.id)
                assert other == request.id, f"block {block} is written by {other!r} and {request.id!r}"
                assert block not in self.cache.places, f"{request.id!r} writes block {block} that others may read"

    def _check_table(self, request: Request) -> None:
        tables, held = self.tables, request.held
        assert len(request.blocks) % tables.groups == 0, f"{request.id!r} has a row that is not whole"
        assert len(set(held)) == len(held), f"{request.id!r} holds a block twice"
        assert LEFT not in held, f"{request.id!r} has left a block behind among those that it holds"
        seen = tables.first_seen(request.settled)
        assert request.left == seen, f"{request.id!r} left {request.left} rows behind, and sees those from {seen}"
        for at, block in enumerate(request.blocks):
            is_left = at // tables.groups < seen and at % tables.groups >= tables.full
            assert (block == LEFT) == is_left, f"{request.id!r} has {block} at {at} of its table"
        assert len(held) <= tables.wanted(request.limit), f"{request.id!r} holds more than it can need"
        assert len(request.blocks) >= tables.rows(request.computed) * tables.groups, f"{request.id!r} writes past them"


def memory_within(config: SchedulerConfig, blocks: int) -> Memory:
    """Make one of so many blocks."""
    return Memory(blocks, tables_within(config), config.watermark, config.least_tail)
