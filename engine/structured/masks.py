"""Grammar masks on the device: bits to minus infinity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from engine.structured.grammar import Bits

_NEVER: Final = float("-inf")
_POWERS: Final = (1, 2, 4, 8, 16, 32, 64, 128)


def words(size: int) -> int:
    """Count the bytes of a row of bits for so many tokens: whole words of 32 bits."""
    return -(-size // 32) * 4


def restrict(logits: Tensor, rows: Sequence[int], bits: Bits) -> list[int]:
    """Take away from some rows of logits [rows, vocabulary] what `bits` [some rows, bytes] do not allow, in place.

    Return the rows that no token is left in.
    """
    size = logits.shape[1]
    packed = torch.from_numpy(bits).to(logits.device)
    powers = torch.tensor(_POWERS, dtype=torch.uint8, device=logits.device)
    allowed = packed[:, :, None].bitwise_and(powers).ne(0).view(len(rows), -1)[:, :size]
    chosen = torch.tensor(rows, device=logits.device)
    left = logits[chosen].masked_fill_(~allowed, _NEVER)
    logits[chosen] = left
    none = (left.amax(dim=-1) == _NEVER).tolist()
    return [row for row, empty in zip(rows, none, strict=True) if empty]


def allow(row: Tensor, tokens: Sequence[int]) -> None:
    """Let one of these tokens come, whatever was said of them before, and no other: logits [vocabulary], in place."""
    kept = torch.tensor([token for token in tokens if token < len(row)], dtype=torch.int64, device=row.device)
    values = row[kept]
    row.fill_(_NEVER)
    row[kept] = values.masked_fill(values == _NEVER, 0.0)


def rows_for(count: int, size: int) -> Bits:
    """Make rows of bits for so many answers and tokens, all of them clear."""
    return np.zeros((count, words(size)), np.uint8)
