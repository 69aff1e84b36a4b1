"""Few calls per layer on any device: blocks are gathered into dense tensors and attended by PyTorch's fused kernel.

Requests with one token are attended together, in groups of similar length, so that one long conversation does not
make every other row as wide as itself. A group is as wide as the next power of two of its requests' blocks, or of
those that a window can touch: the shapes that a request's keys are reduced over depend on that request alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.kernels.batch import Integers, PagedBatch
from engine.kernels.reference import ReferenceOps


class GatheredOps(ReferenceOps):
    """The reference with PyTorch's fused calls. Promises and shapes: see `engine.kernels.ops.Ops`."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if weight.dtype != x.dtype:
            return super().rms_norm(x, weight, eps)
        if weight.dim() == 1:
            return functional.rms_norm(x, weight.shape, weight, eps)
        return functional.rms_norm(x, weight.shape[-1:], None, eps) * weight

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return functional.layer_norm(x, weight.shape, weight, bias, eps)

    def rotary(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return torch.addcmul(x * cos, torch.roll(x, x.shape[-1] // 2, dims=-1), sin)

    def silu_and_mul(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)

    def gelu_and_mul(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return functional.gelu(gate, approximate="tanh").mul_(up)

    def write_kv(self, key: Tensor, value: Tensor, cache: Tensor, slots: Tensor) -> None:
        entries = cache.flatten(0, 1)  # [slots, 2, kv_heads, head_dim]
        entries[:, 0].index_copy_(0, slots, key)
        entries[:, 1].index_copy_(0, slots, value)

    def attention(
        self, batch: PagedBatch, scale: float, window: int | None = None, cap: float | None = None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        scores = _Scores(scale, cap)
        parts: Sequence[_Singles | _Run] = (*_group_singles(batch, scores, window), *_runs(batch, scores, window))
        if len(parts) == 1:
            return parts[0].attend

        def attend(query: Tensor, cache: Tensor) -> Tensor:
            return torch.cat([part.attend(query[part.rows], cache) for part in parts])

        return attend

    def attention_both_ways(self, counts: Sequence[int], scale: float) -> Callable[[Tensor], Tensor]:
        def attend(qkv: Tensor) -> Tensor:
            parts = []
            # one by one: what a sequence's keys are reduced over depends on it alone
            for own in qkv.split_with_sizes(counts):
                query, key, value = own.permute(1, 2, 0, 3).unsqueeze(1)  # each [1, heads, count, head_dim]
                parts.append(functional.scaled_dot_product_attention(query, key, value, scale=scale)[0].transpose(0, 1))
            return torch.cat(parts)

        return attend


@dataclass(frozen=True, slots=True)
class _Scores:
    """How queries and keys become weights."""

    scale: float
    cap: float | None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """[..., queries, head_dim], [..., keys, head_dim] twice, and what is added to scores [..., queries, keys]."""
        if self.cap is None:
            return functional.scaled_dot_product_attention(
                query, key, value, attn_mask=bias.to(query.dtype), scale=self.scale
            )
        # PyTorch's fused call cannot bend scores; of tensors laid out in order the product of each request is
        # computed in the same way however many there are
        left, key, value = (part.float().contiguous() for part in (query, key, value))
        scores = (left @ key.transpose(-1, -2)).mul_(self.scale / self.cap)
        weights = scores.tanh_().mul_(self.cap).add_(bias).softmax(-1)
        return (weights @ value).to(query.dtype)


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
    scores: _Scores

    def attend(self, query: Tensor, cache: Tensor) -> Tensor:
        requests, heads, head_dim = query.shape
        kv_heads = cache.shape[3]
        held = cache.index_select(0, self.blocks).view(requests, -1, 2, kv_heads, head_dim)
        out = self.scores.attend(
            query.reshape(requests, kv_heads, heads // kv_heads, head_dim),
            held[:, :, 0].transpose(1, 2),  # [requests, kv_heads, width * block_size, head_dim]
            held[:, :, 1].transpose(1, 2),
            self.bias,
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
    bias: Tensor
    """[count, keys], float32: 0 where a key is seen, else minus infinity."""
    scores: _Scores

    def attend(self, query: Tensor, cache: Tensor) -> Tensor:
        count, heads, head_dim = query.shape
        kv_heads = cache.shape[3]
        shared = heads // kv_heads
        keys = self.bias.shape[1]
        held = cache.index_select(0, self.blocks).flatten(0, 1)[:keys]  # [keys, 2, kv_heads, head_dim]
        spread = held.permute(1, 2, 0, 3).unsqueeze(1).expand(-1, shared, -1, -1, -1)
        out = self.scores.attend(
            query.view(count, kv_heads, shared, head_dim).permute(2, 1, 0, 3),  # [shared, kv_heads, count, head_dim]
            spread[0],  # [shared, kv_heads, keys, head_dim]
            spread[1],
            self.bias,
        )
        return out.permute(2, 1, 0, 3).reshape(count, heads, head_dim)


def _group_singles(batch: PagedBatch, scores: _Scores, window: int | None) -> list[_Singles]:
    """Cut the single-token requests where the power of two of the blocks they see changes."""
    lengths = batch.lengths[: batch.singles]
    if not lengths.size:
        return []
    size = batch.block_size
    blocks = -(-lengths // size)
    widths = _powers(blocks)
    if window is not None:  # wide enough for it wherever in a block it begins
        widths = np.minimum(widths, _powers(np.array([-(-window // size) + 1])))
    cuts = [0, *(np.flatnonzero(np.diff(widths)) + 1).tolist(), len(lengths)]
    device = batch.tables.device
    groups = []
    for first, last in pairwise(cuts):
        width = int(widths[first])
        skipped = np.maximum(blocks[first:last] - width, 0)[:, None]
        table = _columns(batch.tables[first:last], width, skipped)
        places = skipped * size + np.arange(width * size)  # [requests, keys]
        ends = lengths[first:last, None]
        seen = places < ends if window is None else (places < ends) & (places >= ends - window)
        bias = torch.from_numpy(np.where(seen, np.float32(0), np.float32("-inf"))).to(device)
        groups.append(_Singles(slice(first, last), table.reshape(-1), bias[:, None, None], scores))
    return groups


def _powers(counts: Integers) -> Integers:
    """Return for each count the next power of two."""
    return 1 << np.ceil(np.log2(counts)).astype(np.int64)


def _columns(tables: Tensor, width: int, skipped: Integers) -> Tensor:
    """Return `width` columns of block tables, in each row after `skipped` [rows, 1]; beyond them is block 0."""
    if skipped.any():
        picked = torch.from_numpy(skipped + np.arange(width)).to(tables.device)
        return tables.gather(1, picked)
    return functional.pad(tables[:, :width], (0, max(0, width - tables.shape[1])))


def _runs(batch: PagedBatch, scores: _Scores, window: int | None) -> list[_Run]:
    """Prepare the requests with several tokens, one by one."""
    device = batch.tables.device
    size = batch.block_size
    runs = []
    first = batch.singles
    for i in range(batch.singles, len(batch.counts)):
        count, length = int(batch.counts[i]), int(batch.lengths[i])
        # blocks that lie wholly before the first token's window
        skipped = 0 if window is None else max(0, length - count + 1 - window) // size
        keys = length - skipped * size
        unseen = torch.ones(count, keys, dtype=torch.bool, device=device).triu(keys - count + 1)
        if window is not None:
            unseen |= torch.ones_like(unseen).tril(keys - count - window)
        bias = torch.zeros(count, keys, device=device).masked_fill_(unseen, float("-inf"))
        blocks = batch.tables[i, skipped : -(-length // size)]
        runs.append(_Run(slice(first, first + count), blocks, bias, scores))
        first += count
    return runs
