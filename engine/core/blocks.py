"""The pool of KV blocks: who holds which, and in which order idle ones are used again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence


class BlockPool:
    """Hands out fixed-size KV blocks and takes them back.

    A block is held (by one or more requests) or idle. Idle blocks marked `keep` hold on to their content until they
    are taken again, longest idle first, so that a later request with the same prefix can revive them; before all of
    those come blocks without content worth keeping, and then such as were left by a request that goes on. Every
    operation is O(1) per block: the order of use is in linked lists.
    """

    def __init__(self, size: int, evicted: Callable[[int], None]) -> None:
        """Start with `size` idle blocks; `evicted` hears of every kept block whose content is given up."""
        self.size = size
        self._evicted = evicted
        self._holders = [0] * size
        self._kept = bytearray(size)
        self._spare: OrderedDict[int, None] = OrderedDict.fromkeys(range(size))
        """Idle blocks that are taken first: without content, then left ones."""
        self._idle: OrderedDict[int, None] = OrderedDict()
        """The others."""

    @property
    def idle(self) -> int:
        """How many blocks could be taken now."""
        return len(self._spare) + len(self._idle)

    @property
    def spare(self) -> int:
        """How many of them are taken before those whose content is worth keeping."""
        return len(self._spare)

    def idle_among(self, blocks: Iterable[int]) -> int:
        """Count those of some blocks that nobody holds."""
        holders = self._holders
        return sum(1 for block in blocks if holders[block] == 0)

    def take(self, count: int) -> list[int] | None:
        """Take `count` idle blocks, or none at all if there are fewer."""
        if count > self.idle:
            return None
        taken = []
        for _ in range(count):
            block, _none = (self._spare or self._idle).popitem(last=False)
            self._holders[block] = 1
            if self._kept[block]:
                self._kept[block] = 0
                self._evicted(block)
            taken.append(block)
        return taken

    def hold(self, blocks: Iterable[int]) -> None:
        """Hold blocks with known content once more; idle ones come back to life."""
        for block in blocks:
            if self._holders[block] == 0:
                del (self._spare if block in self._spare else self._idle)[block]
            self._holders[block] += 1

    def keep(self, block: int) -> None:
        """Mark a held block's content as worth keeping when it becomes idle."""
        assert self._holders[block] > 0, f"block {block} is idle: its content may be gone"
        self._kept[block] = 1

    def unkeep(self, block: int) -> None:
        """Take the mark away: the block's content is not worth keeping any more."""
        self._kept[block] = 0
        if self._holders[block] == 0:
            self._idle.pop(block, None)
            self._put_first(block)

    def held_once(self, blocks: Iterable[int]) -> int:
        """Count those of some blocks that have one holder alone."""
        holders = self._holders
        return sum(1 for block in blocks if holders[block] == 1)

    def release(self, blocks: Sequence[int]) -> None:
        """Give up a request's blocks. The tail becomes idle first and so is used again before the head, which more
        requests share.
        """
        for block in reversed(blocks):
            assert self._holders[block] > 0, f"block {block} is released but nobody holds it"
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if self._kept[block]:
                    self._idle[block] = None
                else:
                    self._put_first(block)

    def leave(self, blocks: Sequence[int]) -> None:
        """Give up blocks of a request that goes on: they are of use to one that parts from it there alone."""
        self.release(blocks)
        self.spend(blocks)

    def spend(self, blocks: Sequence[int]) -> None:
        """Have idle ones among some blocks be used before all whose content is worth more; the last of them first."""
        for block in reversed(blocks):
            if block in self._idle:
                del self._idle[block]
                self._spare[block] = None

    def _put_first(self, block: int) -> None:
        self._spare[block] = None
        self._spare.move_to_end(block, last=False)

    def check(self, tables: Iterable[Sequence[int]], kept: Iterable[int]) -> None:
        """Fail if the books do not balance against the requests' block tables and the blocks worth keeping."""
        counted = [0] * self.size
        for table in tables:
            for block in table:
                counted[block] += 1
        assert counted == self._holders, "the holders counted are not those of the block tables"
        unheld = {block for block, holders in enumerate(self._holders) if holders == 0}
        idle = [*self._spare, *self._idle]
        assert len(idle) == len(set(idle)), "a block is in both lists of idle ones"
        assert unheld == set(idle), f"idle lists and holders disagree on {sorted(unheld ^ set(idle))}"
        marked = {block for block, mark in enumerate(self._kept) if mark}
        assert marked == set(kept), f"pool and cache disagree on the content of {sorted(marked ^ set(kept))}"
        order = [self._kept[block] for block in idle]
        assert order == sorted(order), "an idle block with content would be used before one without"
        assert all(self._kept[block] for block in self._idle), "an idle block without content is among those with it"
