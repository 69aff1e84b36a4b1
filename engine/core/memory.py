"""The KV memory as requests see it: a table of blocks that begins with a cached prefix and grows step by step."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from engine.config import SchedulerConfig
from engine.core.blocks import BlockPool
from engine.core.prefix_cache import PrefixCache
from engine.core.request import LEFT, Request


class Memory:
    """Gives requests their blocks. A request alone writes its table, but for the cached prefix, which nobody does."""

    def __init__(
        self, blocks: int, block_size: int, watermark: float = 0.0, window: int | None = None, ahead: int = 0
    ) -> None:
        """Make one in which nothing is known.

        Args:
            blocks: how many there are.
            block_size: tokens per block.
            watermark: share of the blocks that new requests leave to those that run.
            window: how many positions back a position sees, itself included; all for None.
            ahead: positions of a request that are computed at most before the result of the first of them is in.
        """
        self.size = blocks
        self.block_size = block_size
        self._window = window
        self._ahead = ahead
        self.watermark = int(blocks * watermark)
        """Blocks that new requests leave to those that run."""
        self._cache = PrefixCache(block_size)
        self._pool = BlockPool(blocks, self._cache.forget)

    @property
    def idle(self) -> int:
        """Blocks that could be taken now."""
        return self._pool.idle

    @property
    def cached(self) -> int:
        """Blocks whose content can be found."""
        return len(self._cache.entries)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks so many tokens fill."""
        return -(-tokens // self.block_size)

    def most_for(self, tokens: int) -> int:
        """How many blocks a request of so many tokens holds at most at once."""
        return most_blocks(tokens, self.block_size, self._window, self._ahead)

    def missing(self, request: Request) -> int:
        """Count the blocks that a running request will soon want: those for its tokens, and one to grow into.

        In crowds of growing answers the one saved a fifth to a half of what was computed twice, for at most 4 % more
        steps.
        """
        tokens = min(len(request.tokens) + self.block_size, request.limit)
        table = len(request.blocks)
        return max(min(self.blocks_for(tokens) - table, self.most_for(tokens) - table + request.left), 0)

    def promised(self, running: Collection[Request]) -> int:
        """Count the blocks that are for running requests to grow into."""
        return (self.watermark if running else 0) + sum(self.missing(request) for request in running)

    def lacking(self, request: Request, spared: int) -> int:
        """Count the blocks that must be given up for a waiting request to begin; 0 if it could now.

        It begins only if all its tokens fit. Blocks already promised to others, `spared`, do not count as room.
        """
        return self._fit(request, spared)[1]

    def open(self, request: Request, spared: int) -> bool:
        """Give a waiting request the blocks of its cached prefix, if it does not lack any. False changes nothing."""
        found, lacking = self._fit(request, spared)
        if lacking:
            return False
        request.blocks, request.left = found, found.count(LEFT)
        self._pool.hold(request.held)
        request.entered = len(found)
        request.computed = request.settled = len(found) * self.block_size
        request.recomputed += max(request.lost - request.computed, 0)
        request.lost = 0
        return True

    def _fit(self, request: Request, spared: int) -> tuple[list[int], int]:
        """Find the blocks of a request's cached prefix, and count those that it lacks beside them."""
        tokens = request.tokens if request.found_within is None else request.tokens[: request.found_within]
        found = self._cache.match(request.keys, tokens, self._window)
        held = [block for block in found if block != LEFT]
        length = len(request.tokens)
        fresh = min(self.blocks_for(length) - len(found), self.most_for(length) - len(held))
        needed = fresh + self._pool.idle_among(held)
        return found, max(needed + spared - self._pool.idle, 0)

    def gained(self, victim: Request, request: Request) -> int:
        """Count the blocks that a waiting request lacks no more once a running one has given way.

        Those of its own cached prefix are none: it holds them then. What was promised to the victim is.
        """
        found = set(self._fit(request, 0)[0])
        return self._pool.held_once(block for block in victim.held if block not in found) + self.missing(victim)

    def grow(self, request: Request, end: int) -> tuple[int, ...] | None:
        """Extend a request's table to positions `[0, end)`; return the blocks added, None if there are too few."""
        needed = self.blocks_for(end) - len(request.blocks)
        if needed <= 0:
            return ()
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
        if settled >= (request.entered + 1) * self.block_size:
            self._enter(request)
        if self._window is not None:
            first = max(0, settled - self._window + 1) // self.block_size
            self._pool.release(request.blocks[request.left : first])
            request.blocks[request.left : first] = [LEFT] * max(0, first - request.left)
            request.left = max(request.left, first)

    def _enter(self, request: Request) -> None:
        full = request.settled // self.block_size
        for index in range(request.entered, full):
            block = request.blocks[index]
            if self._cache.enter(request.keys, request.tokens, index, block):
                self._pool.keep(block)
        request.entered = full

    def close(self, request: Request) -> None:
        """Take a request's blocks back; what can be found in them stays so until they are overwritten."""
        self._pool.release(request.held)
        request.lost = max(request.lost, request.settled)
        request.blocks = []
        request.left = request.computed = request.settled = request.entered = 0

    def forget(self) -> int:
        """Let nothing that is in memory now be found any more; return how many blocks could be until now."""
        known = list(self._cache.entries)
        for block in known:
            self._cache.forget(block)
            self._pool.unkeep(block)
        return len(known)

    def check(self, running: Iterable[Request]) -> None:
        """Fail if a block leaked, was freed early, or may be written by two requests."""
        requests = list(running)
        self._pool.check((request.held for request in requests), self._cache.entries)
        self._cache.check()
        writers: dict[int, str] = {}
        for request in requests:
            assert len(set(request.held)) == len(request.held), f"{request.id!r} holds a block twice"
            assert LEFT not in request.held, f"{request.id!r} has left a block behind among those that it holds"
            assert request.blocks[: request.left] == [LEFT] * request.left, f"{request.id!r} left blocks that it names"
            assert len(request.held) <= self.most_for(request.limit), f"{request.id!r} holds more than it can need"
            seen = 0 if self._window is None else max(0, request.settled - self._window + 1) // self.block_size
            assert request.left == seen, f"{request.id!r} left {request.left} blocks behind, and sees those from {seen}"
            assert len(request.blocks) >= self.blocks_for(request.computed), f"{request.id!r} writes past its blocks"
            for block in request.blocks[request.settled // self.block_size :]:
                other = writers.setdefault(block, request.id)
                assert other == request.id, f"block {block} is written by {other!r} and {request.id!r}"
                assert block not in self._cache.entries, f"{request.id!r} writes block {block} that others may read"


def most_blocks(tokens: int, block_size: int, window: int | None, ahead: int) -> int:
    """Count the blocks that a request of so many tokens holds at most at once; for the rest see `Memory`."""
    blocks = -(-tokens // block_size)
    return blocks if window is None else min(blocks, -(-(window - 1 + ahead) // block_size) + 1)


def memory_within(config: SchedulerConfig, blocks: int) -> Memory:
    """Make one of so many blocks."""
    return Memory(blocks, config.block_size, config.watermark, config.window, config.ahead)
