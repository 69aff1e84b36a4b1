"""Few calls per layer on any device: blocks are gathered into dense tensors and attended by PyTorch's fused kernel.

Requests with one token are attended together, in groups of similar length, so that one long conversation does not
make every other row as wide as itself. A group is as wide as the next power of two of its requests' blocks: the
shapes that a request's keys are reduced over depend on that request alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.kernels.batch import PagedBatch
from engine.kernels.reference import ReferenceOps


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
    """Requests with one token each, attended in one call.

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
        held = cache.index_select(0, self.blocks).view(requests, -1, 2, kv_heads, head_dim)
        out = functional.scaled_dot_product_attention(
            query.reshape(requests, kv_heads, heads // kv_heads, head_dim),
            held[:, :, 0].transpose(1, 2),  # [requests, kv_heads, width * block_size, head_dim]
            held[:, :, 1].transpose(1, 2),
            attn_mask=self.bias.to(query.dtype),
            scale=self.scale,
        )
        return out.reshape(requests, heads, head_dim)


@dataclass(frozen=True, slots=True)
class _Run:
    """Several tokens of one request.

    The query heads that share a key head lie along the batch dimension, over which keys are repeated without a copy.
    """

    rows: slice
    blocks: Tensor
    """int64 [width]."""
    length: int
    bias: Tensor
    """[count, length], float32: 0 where a key is seen, else minus infinity."""
    scale: float

    def attend(self, query: Tensor, cache: Tensor) -> Tensor:
        count, heads, head_dim = query.shape
        kv_heads = cache.shape[3]
        shared = heads // kv_heads
        held = cache.index_select(0, self.blocks).flatten(0, 1)[: self.length]  # [length, 2, kv_heads, head_dim]
        spread = held.permute(1, 2, 0, 3).unsqueeze(1).expand(-1, shared, -1, -1, -1)
        out = functional.scaled_dot_product_attention(
            query.view(count, kv_heads, shared, head_dim).permute(2, 1, 0, 3),  # [shared, kv_heads, count, head_dim]
            spread[0],  # [shared, kv_heads, length, head_dim]
            spread[1],
            attn_mask=self.bias.to(query.dtype),
            scale=self.scale,
        )
        return out.permute(2, 1, 0, 3).reshape(count, heads, head_dim)


def _group_singles(batch: PagedBatch, scale: float) -> list[_Singles]:
    """Cut the single-token requests where the power of two of their block count changes."""
    lengths = batch.lengths[: batch.singles]
    if not lengths.size:
        return []
    widths = 1 << np.ceil(np.log2(-(-lengths // batch.block_size))).astype(np.int64)
    cuts = [0, *(np.flatnonzero(np.diff(widths)) + 1).tolist(), len(lengths)]
    device = batch.tables.device
    groups = []
    for first, last in pairwise(cuts):
        width = int(widths[first])
        table = functional.pad(batch.tables[first:last, :width], (0, max(0, width - batch.tables.shape[1])))
        seen = np.arange(width * batch.block_size) < lengths[first:last, None]  # [requests, keys]
        bias = torch.from_numpy(np.where(seen, np.float32(0), np.float32("-inf"))).to(device)
        groups.append(_Singles(slice(first, last), table.reshape(-1), bias[:, None, None], scale))
    return groups


def _runs(batch: PagedBatch, scale: float) -> list[_Run]:
    """Prepare the requests with several tokens, one by one."""
    device = batch.tables.device
    runs = []
    first = batch.singles
    for i in range(batch.singles, len(batch.counts)):
        count, length = int(batch.counts[i]), int(batch.lengths[i])
        unseen = torch.ones(count, length, dtype=torch.bool, device=device).triu(length - count + 1)
        bias = torch.zeros(count, length, device=device).masked_fill_(unseen, float("-inf"))
        blocks = batch.tables[i, : -(-length // batch.block_size)]
        runs.append(_Run(slice(first, first + count), blocks, length, bias, scale))
        first += count
    return runs
