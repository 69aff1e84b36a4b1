"""What a table of requests keeps where the device goes ahead of the host.

A token that is drawn is put into a table on the device, a place for each row, and the next step reads it from there.
Until the host has it, its row is awaited. Rows are taken again by others while tokens for those before them are on
their way, so each has a life, which is counted; and so have blocks, by the turn in which they were handed out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.kernels.batch import Integers
from engine.runner.flat import Remote

_LEAST: Final = 256
"""Rows that there is room for at first."""


class Ahead:
    """Tokens on the device, and who waits for them."""

    def __init__(self, blocks: int, device: torch.device) -> None:
        """Make room for the first requests, and for what is known of so many KV blocks."""
        self.awaited: npt.NDArray[np.bool_] = np.zeros(_LEAST, np.bool_)
        """[rows]: whether the last token that is known of a row is not on the host yet."""
        self._lives: Integers = np.zeros(_LEAST, np.int64)
        """[rows]: how many requests have left it."""
        self._drawn = torch.zeros(_LEAST, dtype=torch.int64, device=device)
        """[rows]: the last token that was drawn."""
        self._handed_out: Integers = np.full(blocks, -1, np.int64)
        """[blocks]: how many steps were launched when it was last given to somebody to write to."""
        self._turn = 0

    def grow(self, rows: int) -> None:
        """Make room for so many."""
        more = rows - len(self._lives)
        if more > 0:
            self.awaited = np.pad(self.awaited, (0, more))
            self._lives = np.pad(self._lives, (0, more))
            self._drawn = torch.cat((self._drawn, self._drawn.new_zeros(more)))

    def enter(self, row: int) -> None:
        """Note that a request has taken a row, all of whose tokens are known here."""
        self.awaited[row] = False

    def leave(self, row: int) -> None:
        """Note that a request has left its row."""
        self._lives[row] += 1

    def lives_on(self, row: int, life: int) -> bool:
        """Say whether a row is the same request's as it was."""
        return bool(self._lives[row] == life)

    def hand_out(self, blocks: Sequence[int]) -> None:
        """Note that blocks will be written to by somebody else than before."""
        if blocks:
            self._handed_out[list(blocks)] = self._turn

    def note(
        self, rows: Integers, places: tuple[Integers, Integers], slots: Sequence[Integers], takers: Tensor
    ) -> Remote:
        """Say what is to be known of a step of such rows [slices] that is about to be launched."""
        return Remote(self._turn, self._lives[rows], places, tuple(slots), takers)

    def expect(self, rows: Integers) -> None:
        """A step is launched, and rows get a token each."""
        self.awaited[rows] = True
        self._turn += 1

    def draw(self, takers: Tensor, tokens: Tensor) -> None:
        """Keep what was drawn for rows, on the device both."""
        self._drawn.index_copy_(0, takers, tokens)

    def sources(self, rows: Integers, newest: npt.NDArray[np.bool_]) -> Integers | None:
        """Say of which rows' tokens [tokens] the `newest` has to be read on the device; below 0: the host has it."""
        awaited = self.awaited[rows] & newest
        return np.where(awaited, rows, -1) if awaited.any() else None

    def filled_in(self, tokens: Tensor, sources: Tensor, *, all_of_them: bool) -> Tensor:
        """Put tokens that are on the device in the places of those that the host does not know."""
        if all_of_them:
            return self._drawn.index_select(0, sources)
        return torch.where(sources >= 0, self._drawn.index_select(0, sources.clamp(min=0)), tokens)

    def arrived(self, rows: Integers, lives: Integers, newest: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Tokens of rows have come: say for which requests that are still there; `newest`: there is none after it."""
        here: npt.NDArray[np.bool_] = self._lives[rows] == lives
        self.awaited[rows[here & newest]] = False
        return here

    def still_written(self, slots: Integers, block_size: int, turn: int) -> Integers:
        """Leave out slots in blocks that were handed out after a step was launched."""
        return slots[self._handed_out[slots // block_size] <= turn]
