"""The memory of keys and values: how much a block takes, how many fit, and the tensors themselves."""

from __future__ import annotations

import ctypes
import math
import threading
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

_TOUCHED: Final = 512 << 20
"""Bytes of a host's memory that are fetched at once."""
_PIECE: Final = 4 << 20
_PAGE: Final = 4096
_POPULATE_WRITE: Final = 23
"""Advice of Linux 5.14 and later: give these pages, as if they were written to; what is in them stays."""


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
        self._ops = model.ops
        self._memory = memory
        if memory.device.type == "cpu":
            threading.Thread(target=_touch, args=(memory,), name="kv-touch").start()
        self.layers = tuple(memory[place] for _, place in groups.places)
        """Per layer [blocks, block_size, 2, kv_heads, head_dim], in whatever order ops keep them within a block."""

    def clear(self, slots: Tensor) -> None:
        """Write zeros over the entries of int64 `slots` [tokens] in every layer of their blocks' group."""
        kv_heads, head_dim = self._memory[0].shape[3:]
        nothing = self._memory[0].new_zeros(len(slots), kv_heads, head_dim)
        for memory in self._memory:
            self._ops.write_kv(nothing, nothing, memory, slots)


def _touch(memory: Tensor) -> None:
    """Have the system give the pages of the first blocks, those that are taken first, before anybody writes to them.

    To clear a page when its first token comes cost a prompt an eighth of its time. What lies behind comes as it is
    written: a cache may be much larger than what is ever used of it. A process that ends does not wait for it: its
    thread is no daemon, as Python ends those within PyTorch, which aborts, but leaves off with the main thread.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    each = memory[0].nbytes
    first = min(each, _TOUCHED // len(memory))
    for begin in range(0, first, _PIECE):
        for layer in memory:
            if not threading.main_thread().is_alive():
                return
            start = layer.data_ptr() + begin
            until = min(start + _PIECE, layer.data_ptr() + first)
            start, size = -(-start // _PAGE) * _PAGE, until // _PAGE * _PAGE + start // -_PAGE * _PAGE
            if size > 0 and libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _POPULATE_WRITE):
                return  # an older kernel, or no memory: pages come when they are written


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros; a host gives each page of them only when it is first written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = math.prod(shape) * dtype.itemsize
    whole = torch.from_numpy(np.zeros(size + _LINE, np.uint8))
    begin = -whole.data_ptr() % _LINE
    return whole[begin : begin + size].view(dtype).view(shape)
