"""Grammar masks on the device: bits to minus infinity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from torch import Tensor

from engine.kernels.batch import on_device
from engine.structured.grammar import Bits

_NEVER: Final = float("-inf")
_POWERS: Final = np.array([1, 2, 4, 8, 16, 32, 64, 128], np.uint8)


def words(size: int) -> int:
    """Count the bytes of a row of bits for so many tokens: whole words of 32 bits."""
    return -(-size // 32) * 4


def restrict(logits: Tensor, rows: Sequence[int], bits: Bits) -> None:
    """Take away from some rows of logits [rows, vocabulary] what `bits` [some rows, bytes] do not allow, in place."""
    size = logits.shape[1]
    packed = on_device(bits, logits.device)
    powers = on_device(_POWERS, logits.device)
    allowed = packed[:, :, None].bitwise_and(powers).ne(0).view(len(rows), -1)[:, :size]
    chosen = on_device(np.array(rows, np.int64), logits.device)
    logits[chosen] = logits[chosen].masked_fill_(~allowed, _NEVER)


def allow(row: Tensor, tokens: Sequence[int]) -> None:
    """Let one of these tokens come, whatever was said of them before, and no other: logits [vocabulary], in place."""
    kept = on_device(np.array([token for token in tokens if token < len(row)], np.int64), row.device)
    values = row[kept]
    row.fill_(_NEVER)
    row[kept] = values.masked_fill(values == _NEVER, 0.0)


def rows_for(count: int, size: int) -> Bits:
    """Make rows of bits for so many answers and tokens, all of them clear."""
    return np.zeros((count, words(size)), np.uint8)
