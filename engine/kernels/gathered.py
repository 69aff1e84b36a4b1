"""Few calls per layer on any device: blocks are gathered into dense tensors and attended by PyTorch's fused kernel.

A token is attended over as many blocks as the next power of two of those that it sees, whether it is decoded alone or
computed in the middle of a prompt: the shapes that it is reduced over depend on its own position alone. And query rows
are padded to a multiple of four, because products of one, two or three rows were measured to give other bits than those
of more, and odd numbers of rows too. So a request's numbers depend neither on its neighbours, nor on the chunks its
prompt is cut into, nor on what of it comes from the prefix cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from engine.kernels.batch import PagedBatch
from engine.kernels.reference import ReferenceOps

_ROWS: Final = 4
"""What the rows of a query are padded to a multiple of."""


class GatheredOps(ReferenceOps):
    """The reference with PyTorch's fused calls. Promises and shapes: see `engine.kernels.ops.Ops`."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if weight.dim() == 1:
            return functional.rms_norm(x, weight.shape, weight, eps)
        return functional.rms_norm(x, weight.shape[-1:], None, eps) * weight

    def rotary(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return torch.addcmul(x * cos, torch.roll(x, x.shape[-1] // 2, dims=-1), sin)

    def silu_and_mul(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)

    def write_kv(self, key: Tensor, value: Tensor, cache: Tensor, slots: Tensor) -> None:
        entries = cache.flatten(0, 1)  # [slots, 2, kv_heads, head_dim]
        entries[:, 0].index_copy_(0, slots, key)
        entries[:, 1].index_copy_(0, slots, value)

    def attention(self, batch: PagedBatch, scale: float) -> Callable[[Tensor, Tensor], Tensor]:
        parts: Sequence[_Singles | _Run] = (*_group_singles(batch, scale), *_runs(batch, scale))
        if len(parts) == 1:
            return parts[0].attend

        def attend(query: Tensor, cache: Tensor) -> Tensor:
            return torch.cat([part.attend(query[part.rows], cache) for part in parts])

        return attend


@dataclass(frozen=True, slots=True)
class _Singles:
    """Requests with one token each that see about as much, attended in one call.

    The query heads that share a key head lie along the query dimension: nothing is causal between them.
    """

    rows: slice
    blocks: Tensor
    """int64 [requests * width]."""
    bias: Tensor
    """[requests, 1, 1, width * block_size], float32: 0 where a key is seen, else minus infinity."""
    scale: float

    def attend(self, query: Tensor, cache: Tensor) -> Tensor:
        requests, heads, head_dim = query.shape
        kv_heads = cache.shape[3]
        shared = heads // kv_heads
        held = cache.index_select(0, self.blocks).view(requests, -1, 2, kv_heads, head_dim)
        out = functional.scaled_dot_product_attention(
            _padded(query.reshape(requests, kv_heads, shared, head_dim)),
            held[:, :, 0].transpose(1, 2),  # [requests, kv_heads, width * block_size, head_dim]
            held[:, :, 1].transpose(1, 2),
            attn_mask=self.bias.to(query.dtype),
            scale=self.scale,
        )
        return out[:, :, :shared].reshape(requests, heads, head_dim)


@dataclass(frozen=True, slots=True)
class _Run:
    """Several tokens of one request that see about as much.

    The query heads that share a key head lie along the batch dimension, over which keys are repeated without a copy.
    """

    rows: slice
    blocks: Tensor
    """int64 [width]."""
    bias: Tensor
    """[count, rounded up to a multiple of four; width * block_size], float32: 0 where a key is seen, else minus
    infinity."""
    scale: float

    def attend(self, query: Tensor, cache: Tensor) -> Tensor:
        count, heads, head_dim = query.shape
        kv_heads = cache.shape[3]
        shared = heads // kv_heads
        held = cache.index_select(0, self.blocks).flatten(0, 1)  # [width * block_size, 2, kv_heads, head_dim]
        spread = held.permute(1, 2, 0, 3).unsqueeze(1).expand(-1, shared, -1, -1, -1)
        out = functional.scaled_dot_product_attention(
            _padded(query.view(count, kv_heads, shared, head_dim).permute(2, 1, 0, 3)),
            spread[0],  # [shared, kv_heads, width * block_size, head_dim]
            spread[1],
            attn_mask=self.bias.to(query.dtype),
            scale=self.scale,
        )
        return out[:, :, :count].permute(2, 1, 0, 3).reshape(count, heads, head_dim)


def _padded(query: Tensor) -> Tensor:
    """Round the rows of a query [.., .., rows, head_dim] up to a multiple of four; those added mean nothing."""
    more = -query.shape[2] % _ROWS
    return functional.pad(query, (0, 0, 0, more)) if more else query


def _widths(seen: npt.NDArray[np.int64], block_size: int) -> npt.NDArray[np.int64]:
    """Return how many blocks tokens are attended over that see so many keys."""
    return 1 << np.ceil(np.log2(-(-seen // block_size))).astype(np.int64)


def _cuts(widths: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the (first, last) of neighbours that are equal."""
    return list(pairwise([0, *(np.flatnonzero(np.diff(widths)) + 1).tolist(), len(widths)]))


def _bias(seen: npt.NDArray[np.bool_], device: torch.device) -> Tensor:
    return torch.from_numpy(np.where(seen, np.float32(0), np.float32("-inf"))).to(device)


def _table(batch: PagedBatch, rows: slice, width: int) -> Tensor:
    """Return the first `width` blocks of some requests, [requests * width]; what is beyond a table is never seen."""
    table = batch.tables[rows, :width]
    return functional.pad(table, (0, max(0, width - batch.tables.shape[1]))).reshape(-1)


def _group_singles(batch: PagedBatch, scale: float) -> list[_Singles]:
    """Part the single-token requests by width."""
    lengths = batch.lengths[: batch.singles]
    if not lengths.size:
        return []
    widths = _widths(lengths, batch.block_size)
    groups = []
    for first, last in _cuts(widths):
        rows, width = slice(first, last), int(widths[first])
        seen = np.arange(width * batch.block_size) < lengths[rows, None]  # [requests, keys]
        bias = _bias(seen, batch.tables.device)[:, None, None]
        groups.append(_Singles(rows, _table(batch, rows, width), bias, scale))
    return groups


def _runs(batch: PagedBatch, scale: float) -> list[_Run]:
    """Part the tokens of each request that has several by width."""
    runs = []
    flat = batch.singles
    for i in range(batch.singles, len(batch.counts)):
        count, length = int(batch.counts[i]), int(batch.lengths[i])
        seen = np.arange(length - count + 1, length + 1)
        widths = _widths(seen, batch.block_size)
        for first, last in _cuts(widths):
            width = int(widths[first])
            keys = np.pad(seen[first:last], (0, -(last - first) % _ROWS), constant_values=1)
            bias = _bias(np.arange(width * batch.block_size) < keys[:, None], batch.tables.device)
            rows = slice(flat + first, flat + last)
            runs.append(_Run(rows, _table(batch, slice(i, i + 1), width), bias, scale))
        flat += count
    return runs
