"""The memory of keys and values: how much a block takes, how many fit, and the tensors themselves."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from torch import Tensor

from engine.errors import NotEnoughMemory
from engine.models.config import ModelConfig
from engine.models.decoder import Decoder
from engine.platforms import Platform

KV_MEND: Final = "lower kv_memory_mb or kv_blocks (of a runner: blocks or memory_share)"
"""What makes a KV cache fit."""

_SHARE_OF_ACCELERATOR: Final = 0.85
_SHARE_OF_HOST: Final = 0.25
"""Other processes live here too."""

_LINE: Final = 64
"""Bytes that the processor reads at once."""


def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    """Return the bytes of one KV block: some tokens in the layers of a group."""
    return config.groups.size * block_size * 2 * config.kv_heads * config.head_dim * dtype.itemsize


def blocks_that_fit(platform: Platform, one: int, share: float | None = None, least: int = 1) -> int:
    """Return how many blocks of `one` bytes fit into a share of the memory that is free now.

    Args:
        platform: Whose memory.
        one: What `block_bytes` says.
        share: Between 0 and 1; 0.85 of an accelerator or 0.25 of a host's memory where it is `None`.
        least: How many a single token takes.

    Raises:
        NotEnoughMemory: Not even so many do.
    """
    if share is None:
        share = _SHARE_OF_HOST if platform.kind == "cpu" else _SHARE_OF_ACCELERATOR
    available = int(platform.free_memory() * share)
    if available < one * least:
        what = "one KV block" if least == 1 else f"{least} KV blocks, one for each group of layers"
        raise NotEnoughMemory(what, one * least, available, "free memory on the device, or raise memory_share")
    return available // one


class KvCache:
    """Keys and values of every layer, in blocks. Entries are always finite: they start as zeros.

    Layers of several groups write to the same tensors, to blocks of their own.
    """

    def __init__(self, model: Decoder, blocks: int, block_size: int) -> None:
        """Allocate `blocks` of `block_size` tokens, in the number format and on the device of the model.

        Raises:
            NotEnoughMemory: The device refuses.
        """
        config, groups = model.config, model.config.groups
        self.blocks = blocks
        self.block_size = block_size
        self.groups = groups.count
        """How many blocks so many tokens take: one of each group of layers."""
        shape = (groups.size, blocks, block_size, 2, config.kv_heads, config.head_dim)
        try:
            memory = _zeros(shape, model.dtype, model.device)
        # torch's own OutOfMemoryError is a RuntimeError; numpy raises the others
        except (RuntimeError, MemoryError, ValueError) as error:
            needed = blocks * block_bytes(config, block_size, model.dtype)
            raise NotEnoughMemory("the KV cache", needed, None, KV_MEND) from error
        self._memory = memory
        self.layers = tuple(memory[place] for _, place in groups.places)
        """Per layer [blocks, block_size, 2, kv_heads, head_dim]."""

    def clear(self, slots: Tensor) -> None:
        """Write zeros over the entries of int64 `slots` [tokens] in every layer of their blocks' group."""
        self._memory.flatten(1, 2)[:, slots] = 0


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros; a host gives each page of them only when it is first written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = math.prod(shape) * dtype.itemsize
    whole = torch.from_numpy(np.zeros(size + _LINE, np.uint8))
    begin = -whole.data_ptr() % _LINE
    return whole[begin : begin + size].view(dtype).view(shape)
