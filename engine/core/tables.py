"""How many KV blocks the table of a request takes: in each row one of every group, for the same few tokens."""

from __future__ import annotations

from dataclasses import dataclass

from engine.config import SchedulerConfig


@dataclass(frozen=True, slots=True)
class Tables:
    """The shape of block tables. Groups with a window hold no more of the rows than what is still seen."""

    block_size: int
    """Tokens per row."""
    full: int = 1
    """Groups whose layers see all: the first columns."""
    windowed: int = 0
    """Groups whose layers have a window: the last ones."""
    window: int = 1
    """How many positions back those see, itself included."""
    ahead: int = 0
    """Positions of a request that are computed at most before the result of the first of them is in."""

    @property
    def groups(self) -> int:
        """Blocks in a row."""
        return self.full + self.windowed

    @property
    def near(self) -> int:
        """Rows of which groups with a window hold blocks at most at once."""
        return -(-(self.window - 1 + self.ahead) // self.block_size) + 1

    def rows(self, tokens: int) -> int:
        """How many rows so many tokens fill."""
        return -(-tokens // self.block_size)

    def first_seen(self, settled: int) -> int:
        """Name the first row in which groups with a window hold a block once so many positions are computed."""
        return max(0, settled - self.window + 1) // self.block_size if self.windowed else 0

    def wanted(self, tokens: int, rows: int = 0, left: int = 0) -> int:
        """Count the blocks that are still to come to a table for so many tokens.

        Args:
            tokens: how many.
            rows: of the table until now.
            left: those of them of which groups with a window hold no block any more.
        """
        more = max(self.rows(tokens) - rows, 0)
        if not self.windowed:
            return more * self.full
        return more * self.full + max(min(more, self.near - rows + left), 0) * self.windowed

    def longest(self, blocks: int, most: int) -> int:
        """Count the tokens, `most` or fewer, that a request alone may have among so many blocks."""
        rows = blocks // self.groups
        if self.windowed and rows >= self.near:
            if not self.full:
                return most
            rows = (blocks - self.near * self.windowed) // self.full
        return min(rows * self.block_size, most)


def tables_within(config: SchedulerConfig) -> Tables:
    """Say what shape a scheduler's tables have."""
    if config.window is None:
        return Tables(config.block_size, config.groups)
    return Tables(config.block_size, config.groups - config.windowed, config.windowed, config.window, config.ahead)
