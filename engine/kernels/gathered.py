"""Few calls per layer on any device: blocks are gathered into dense tensors and attended by PyTorch's fused kernel.

A token is attended over as many blocks as the next power of two of those that it sees, or of those that its window can
touch, whether it is decoded alone or computed in the middle of a prompt: the shapes that it is reduced over depend on
its own position alone. And query rows are padded to a multiple of four, because products of one, two or three rows were
measured to give other bits than those of more, and odd numbers of rows too. So a request's numbers depend neither on
its neighbours, nor on the chunks its prompt is cut into, nor on what of it comes from the prefix cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.kernels.batch import Integers, PagedBatch
from engine.kernels.reference import ReferenceOps

_ROWS: Final = 4
"""What the rows of a query are padded to a multiple of."""

_SPAN: Final = 128
"""So many tokens are attended at once where they see only what is near: work and memory grow as the text does."""


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

    def _silu_and_mul(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)

    def _gelu_and_mul(self, x: Tensor) -> Tensor:
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
        seen = batch.shared.get(("gathered", window))
        if seen is None:
            seen = batch.shared["gathered", window] = (_group_singles(batch, window), _runs(batch, window))
        parts: Sequence[_Singles | _Run] = (
            *(_Singles(one.rows, one.blocks(batch.tables), one.bias, scores) for one in seen[0]),
            *(_Run(one.rows, one.blocks(batch.tables), one.bias, scores) for one in seen[1]),
        )
        if len(parts) == 1:
            return parts[0].attend

        def attend(query: Tensor, cache: Tensor) -> Tensor:
            return torch.cat([part.attend(query[part.rows], cache) for part in parts])

        return attend

    def attention_both_ways(
        self, counts: Sequence[int], scale: float, reach: int | None = None
    ) -> Callable[[Tensor], Tensor]:
        def attend(qkv: Tensor) -> Tensor:
            parts = []
            # one by one: what a sequence's keys are reduced over depends on it alone
            for own in qkv.split_with_sizes(counts):
                query, key, value = own.permute(1, 2, 0, 3).unsqueeze(1)  # each [1, heads, count, head_dim]
                parts.append(_attend_both_ways(query, key, value, scale, reach)[0].transpose(0, 1))
            return torch.cat(parts)

        return attend


def _attend_both_ways(query: Tensor, key: Tensor, value: Tensor, scale: float, reach: int | None) -> Tensor:
    """Attend within one sequence, [1, heads, count, head_dim] each."""
    count = query.shape[2]
    if reach is None or count <= reach + 1:
        return functional.scaled_dot_product_attention(query, key, value, scale=scale)
    parts = []
    places = torch.arange(count, device=query.device)
    for first in range(0, count, _SPAN):
        rows, keys = slice(first, first + _SPAN), slice(max(0, first - reach), first + _SPAN + reach)
        near = (places[rows, None] - places[keys]).abs() <= reach
        own = (query[:, :, rows], key[:, :, keys], value[:, :, keys])
        parts.append(functional.scaled_dot_product_attention(*own, attn_mask=near, scale=scale))
    return torch.cat(parts, dim=2)


@dataclass(frozen=True, slots=True)
class _Scores:
    """How queries and keys become weights."""

    scale: float
    cap: float | None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """[..., queries, head_dim], [..., keys, head_dim] twice, and what is added to scores [..., queries, keys].

        Rows of queries are rounded up to a multiple of four, as those of `bias` must be unless it has one for all;
        those added mean nothing.
        """
        rows = query.shape[-2]
        query = functional.pad(query, (0, 0, 0, -rows % _ROWS))
        if self.cap is None:
            mask = bias.to(query.dtype)
            out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scale)
            return out[..., :rows, :]
        # PyTorch's fused call cannot bend scores
        left, key, value = (part.float().contiguous() for part in (query, key, value))
        scores = (left @ key.transpose(-1, -2)).mul_(self.scale / self.cap)
        weights = scores.tanh_().mul_(self.cap).add_(bias).softmax(-1)
        return (weights @ value).to(query.dtype)[..., :rows, :]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What some tokens of a batch see, whichever blocks that is in."""

    rows: slice
    """Which tokens."""
    requests: slice
    """Whose."""
    columns: Tensor
    """int64 [requests, width]: of their block tables.

    In place of blocks that lie before or behind what is seen, the first and the last block of that stand again: a
    weight of zero makes nothing of what others write meanwhile, but for numbers that are not finite.
    """
    bias: Tensor

    def blocks(self, tables: Tensor) -> Tensor:
        """[all requests, widest] -> int64 [requests * width]."""
        return tables[self.requests].gather(1, self.columns).reshape(-1)


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
    """Several tokens of one request that see about as much.

    The query heads that share a key head lie along the batch dimension, over which keys are repeated without a copy.
    """

    rows: slice
    blocks: Tensor
    """int64 [width]."""
    bias: Tensor
    """[count, rounded up to a multiple of four; width * block_size], float32: 0 where a key is seen, else minus
    infinity."""
    scores: _Scores

    def attend(self, query: Tensor, cache: Tensor) -> Tensor:
        count, heads, head_dim = query.shape
        kv_heads = cache.shape[3]
        shared = heads // kv_heads
        held = cache.index_select(0, self.blocks).flatten(0, 1)  # [width * block_size, 2, kv_heads, head_dim]
        spread = held.permute(1, 2, 0, 3).unsqueeze(1).expand(-1, shared, -1, -1, -1)
        out = self.scores.attend(
            query.view(count, kv_heads, shared, head_dim).permute(2, 1, 0, 3),  # [shared, kv_heads, count, head_dim]
            spread[0],  # [shared, kv_heads, width * block_size, head_dim]
            spread[1],
            self.bias,
        )
        return out.permute(2, 1, 0, 3).reshape(count, heads, head_dim)


def _places(seen: Integers, block_size: int, window: int | None) -> tuple[Integers, Integers]:
    """Say over which blocks tokens are attended that see so many keys: how many, and after how many."""
    blocks = -(-seen // block_size)
    widths = _powers(blocks)
    if window is not None:  # wide enough for it wherever in a block it begins
        widths = np.minimum(widths, _powers(np.array([-(-window // block_size) + 1])))
    return widths, np.maximum(blocks - widths, 0)


def _powers(counts: Integers) -> Integers:
    """Return for each count the next power of two."""
    return 1 << np.ceil(np.log2(counts)).astype(np.int64)


def _cuts(*numbers: Integers) -> list[tuple[int, int]]:
    """Return the (first, last) of neighbours that are equal in all numbers."""
    changes = np.any([np.diff(one) != 0 for one in numbers], axis=0)
    return list(pairwise([0, *(np.flatnonzero(changes) + 1).tolist(), len(numbers[0])]))


def _bias(places: Integers, seen: Integers, window: int | None, device: torch.device) -> Tensor:
    """Return float32 [tokens, keys] for keys at `places`, that tokens see which see `seen` [tokens, 1] in all."""
    visible = places < seen
    if window is not None:
        visible &= places >= seen - window
    return torch.from_numpy(np.where(visible, np.float32(0), np.float32("-inf"))).to(device)


def _columns(width: int, skipped: Integers, seen: tuple[Integers, Integers], device: torch.device) -> Tensor:
    """Name `width` columns of block tables, in each row after `skipped` [rows, 1] and among those `seen` [rows, 1]."""
    return torch.from_numpy(np.clip(skipped + np.arange(width), *seen)).to(device)


def _ends(seen: Integers, last: Integers, block_size: int, window: int | None) -> tuple[Integers, Integers]:
    """Name the first and the last block of what tokens see, of which the first sees `seen` keys and the last `last`."""
    first = np.zeros_like(seen) if window is None else np.maximum(seen - window, 0) // block_size
    return first, (last - 1) // block_size


def _group_singles(batch: PagedBatch, window: int | None) -> list[_Seen]:
    """Part the single-token requests by width."""
    lengths, size = batch.lengths[: batch.singles], batch.block_size
    if not lengths.size:
        return []
    widths, skips = _places(lengths, size, window)
    groups = []
    for first, last in _cuts(widths):
        rows, width, skipped = slice(first, last), int(widths[first]), skips[first:last, None]
        places = skipped * size + np.arange(width * size)  # [requests, keys]
        bias = _bias(places, lengths[rows, None], window, batch.tables.device)[:, None, None]
        ends = _ends(lengths[rows, None], lengths[rows, None], size, window)
        groups.append(_Seen(rows, rows, _columns(width, skipped, ends, batch.tables.device), bias))
    return groups


def _runs(batch: PagedBatch, window: int | None) -> list[_Seen]:
    """Part the tokens of each request that has several by the blocks that they are attended over."""
    runs = []
    flat, size = batch.singles, batch.block_size
    for i in range(batch.singles, len(batch.counts)):
        count, length = int(batch.counts[i]), int(batch.lengths[i])
        seen = np.arange(length - count + 1, length + 1)
        widths, skips = _places(seen, size, window)
        for first, last in _cuts(widths, skips):
            width, skipped = int(widths[first]), skips[first : first + 1, None]
            # rows are rounded up with tokens that see as much as the last one
            each = np.pad(seen[first:last], (0, -(last - first) % _ROWS), mode="edge")[:, None]
            bias = _bias(skipped * size + np.arange(width * size), each, window, batch.tables.device)
            ends = _ends(seen[first : first + 1, None], seen[last - 1 : last, None], size, window)
            columns = _columns(width, skipped, ends, batch.tables.device)
            runs.append(_Seen(slice(flat + first, flat + last), slice(i, i + 1), columns, bias))
        flat += count
    return runs
