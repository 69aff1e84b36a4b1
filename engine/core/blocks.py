"""The pool of KV blocks: who holds which, and in which order idle ones are used again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """Hands out fixed-size KV blocks and takes them back.

    A block is held (by one or more requests) or idle. Idle blocks keep their content until they are taken again,
    longest idle first, so that a later request with the same prefix can revive them. Every operation is O(1) per
    block: the order of use is a linked list.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._holders = [0] * size
        self._idle: OrderedDict[int, None] = OrderedDict.fromkeys(range(size))

    @property
    def idle(self) -> int:
        """How many blocks could be taken now."""
        return len(self._idle)

    def take(self, count: int) -> list[int] | None:
        """Take `count` idle blocks, longest idle first; or none at all if there are fewer."""
        if count > len(self._idle):
            return None
        taken = [self._idle.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def hold(self, blocks: Iterable[int]) -> None:
        """Hold blocks with known content once more; idle ones come back to life."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._idle[block]
            self._holders[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Give up a request's blocks. The tail becomes idle first and so is used again before the head, which more
        requests share.
        """
        for block in reversed(blocks):
            assert self._holders[block] > 0, f"block {block} is released but nobody holds it"
            self._holders[block] -= 1
            if self._holders[block] == 0:
                self._idle[block] = None

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Fail if the books do not balance against the requests' block tables. Cheap enough between steps."""
        counted = [0] * self.size
        for table in tables:
            for block in table:
                counted[block] += 1
        assert counted == self._holders, "the holders counted are not those of the block tables"
        unheld = {block for block, holders in enumerate(self._holders) if holders == 0}
        assert unheld == set(self._idle), f"idle list and holders disagree on {sorted(unheld ^ set(self._idle))}"
