"""How a flat batch of tokens from many requests lies in the paged KV cache.

The cache of one layer is a tensor [blocks, block_size, 2, kv_heads, head_dim]: for each token its key, then its
value. A slot is the index of a token's entry when blocks and block_size are seen as one dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """Tokens of several requests, one request after the other; those with a single token first, the short ones ahead.

    `counts` and `lengths` are on the host, since implementations shape their calls by them; tensors are on the device.
    """

    slots: Tensor
    """int64 [tokens]: where each token's key and value go."""
    tables: Tensor
    """int64 [requests, widest]: the blocks of each request in order, padded with block 0."""
    counts: Integers
    """[requests]: tokens of each request in this batch."""
    lengths: Integers
    """[requests]: tokens of each request up to and with its last one here; it attends to all of them."""
    block_size: int
    shared: dict[Any, Any] = field(default_factory=dict)
    """What ops have prepared for these counts and lengths, whatever the tables: batches that differ in tables and slots
    alone, as those of a step do, have the same one."""

    @property
    def singles(self) -> int:
        """How many requests bring one token; they are the first."""
        return int(np.count_nonzero(self.counts == 1))


@dataclass(frozen=True, slots=True)
class Laid:
    """What kernels on an accelerator have to know of a batch, there; the same for all layers.

    Under its own type in `PagedBatch.shared`. Who lays it himself may say more than the host knows of the lengths.
    """

    lengths: Tensor
    """int64 [requests that bring a single token]."""
    longest: int
    """None of these is longer."""
    tiles: dict[int, Tensor]
    """By how many tokens a piece has: what the other requests are cut into."""


def on_device(numbers: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy to the device; to an accelerator without waiting for it, from memory that it reads by itself."""
    there = torch.from_numpy(np.ascontiguousarray(numbers))
    if device.type == "cpu":
        return there
    return there.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else there.to(device)
