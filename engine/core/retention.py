"""Which programs' contexts lie in which blocks: what would have to be computed again if they were used for others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from engine.core.programs import Program


class Retention:
    """Programs by block.

    A table is entered when a turn begins, as far as it was found, and whole when it ends; a block leaves it when it is
    overwritten. A block that was of several programs, as of a system prompt that they share, outlives them: once the
    last of them is over it is an orphan, and kept for the next.
    """

    def __init__(self) -> None:
        self._programs: dict[int, list[Program]] = {}
        self._popular: set[int] = set()
        """Blocks that are or were of several programs."""
        self._orphans: OrderedDict[int, int] = OrderedDict()
        """Popular blocks without a program, to when they got so; the tail of a context before its head."""
        self.shared = 0
        """How many blocks are of several programs."""

    def begin(self, program: Program, blocks: Iterable[int]) -> None:
        """A turn begins with what was found."""
        for block in blocks:
            if block not in program.table:
                program.table[block] = None
                self._enter(program, block)
        program.spent = False

    def keep(self, program: Program, blocks: Iterable[int], now: int) -> list[int]:
        """A turn ends, and leaves its context in these blocks; return such of its others as nobody has now."""
        old, program.table = program.table, dict.fromkeys(blocks)
        for block in program.table:
            if block not in old:
                self._enter(program, block)
        program.spent = False
        return self._left(program, [block for block in old if block not in program.table], now)

    def drop(self, program: Program, now: int) -> list[int]:
        """A program is over; return the blocks that nobody else has or had, in order."""
        blocks, program.table = list(program.table), {}
        return self._left(program, blocks, now)

    def of(self, program: Program) -> list[int]:
        """The blocks that a program alone has, in order."""
        return [block for block in program.table if len(self._programs[block]) == 1]

    def is_of_others(self, block: int, program: Program) -> bool:
        """Say whether a block is of another program, too."""
        return any(other is not program for other in self._programs.get(block, ()))

    @property
    def orphaned(self) -> int | None:
        """When the first of the orphans got to be one; None if there is none."""
        return next(iter(self._orphans.values()), None)

    def disown(self, count: int) -> list[int]:
        """Forget so many orphans; return them, the first to be used for others last."""
        found = [block for _, block in zip(range(count), self._orphans, strict=False)]
        for block in found:
            del self._orphans[block]
            self._popular.discard(block)
        return found[::-1]

    def overwritten(self, block: int) -> None:
        """What was in a block is there no more."""
        found = self._programs.pop(block, ())
        for program in found:
            del program.table[block]
        if len(found) == 1:
            found[0].private -= 1
        self.shared -= len(found) > 1
        self._popular.discard(block)
        self._orphans.pop(block, None)

    def clear(self) -> None:
        """There is a new memory, with nothing in it."""
        for programs in self._programs.values():
            for program in programs:
                program.table, program.private = {}, 0
        self._programs.clear()
        self._popular.clear()
        self._orphans.clear()
        self.shared = 0

    def _enter(self, program: Program, block: int) -> None:
        self._orphans.pop(block, None)
        found = self._programs.setdefault(block, [])
        found.append(program)
        if len(found) == 1:
            program.private += 1
        elif len(found) == 2:
            found[0].private -= 1
            self.shared += 1
            self._popular.add(block)

    def _left(self, program: Program, blocks: Sequence[int], now: int) -> list[int]:
        """Take a program from blocks; return those that nobody has now or had beside it, in order."""
        dropped = []
        for block in reversed(blocks):
            found = self._programs[block]
            found.remove(program)
            if len(found) == 1:
                found[0].private += 1
                self.shared -= 1
            if found:
                continue
            program.private -= 1
            del self._programs[block]
            if block in self._popular:
                self._orphans[block] = now
            else:
                dropped.append(block)
        return dropped[::-1]

    def check(self) -> None:
        """Fail if tables and blocks do not point at each other."""
        private: dict[str, int] = {}
        for block, programs in self._programs.items():
            assert programs, f"block {block} is of no program"
            assert len(set(programs)) == len(programs), f"a program has block {block} twice"
            assert block not in self._orphans, f"block {block} is an orphan that has programs"
            for program in programs:
                assert block in program.table, f"{program.name!r} does not know of block {block}"
                private[program.name] = private.get(program.name, 0) + (len(programs) == 1)
        for programs in self._programs.values():
            for program in programs:
                assert program.private == private[program.name], f"{program.name!r} counts {program.private} of its own"
        assert self.shared == sum(len(programs) > 1 for programs in self._programs.values())
        assert set(self._orphans) <= self._popular
