"""What tests of kernels share: numbers, requests scattered over a cache, and memory that is not what it should be.

`torch.empty` and its kin give NaN while a test runs, so that an output left unwritten is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.kernels.batch import PagedBatch

BLOCKS = 40


@pytest.fixture(autouse=True)
def empty_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def empty(*args: Any, **kwargs: Any) -> Tensor:
            made = make(*args, **kwargs)
            if made.dtype is torch.bool:
                return made.fill_(True)
            return made.fill_(torch.nan) if made.is_floating_point() else made.fill_(torch.iinfo(made.dtype).max // 3)

        return empty

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def lay_out(requests: list[tuple[int, int]], block_size: int, blocks: int = BLOCKS) -> PagedBatch:
    """Scatter requests of (count, length) over random blocks."""
    free = torch.randperm(blocks, generator=torch.Generator().manual_seed(1)).tolist()
    tables = [[free.pop() for _ in range(-(-length // block_size))] for _, length in requests]
    widest = max(len(table) for table in tables)
    slots = [
        tables[i][position // block_size] * block_size + position % block_size
        for i, (count, length) in enumerate(requests)
        for position in range(length - count, length)
    ]
    return PagedBatch(
        slots=torch.tensor(slots),
        tables=torch.tensor([[*table, *[0] * (widest - len(table))] for table in tables]),
        counts=np.array([count for count, _ in requests]),
        lengths=np.array([length for _, length in requests]),
        block_size=block_size,
    )
