"""Every operation in plain PyTorch: the truth that other implementations are tested against.

Reductions run in float32, whatever the format of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from engine.kernels.adapters import Added, LowRank, Routed, added_apart, products_of
from engine.kernels.batch import PagedBatch
from engine.kernels.chances import RowKernels
from engine.kernels.mixing import Mix, mixed_apart
from engine.kernels.products import Activation, Linear
from engine.kernels.weights import Int8Weight, Weight, in_8_bits, whole
from engine.kernels.whole import Gated, Whole, WholeDecoder


class GatedProduct:
    """A product, then its gate. Shapes: see `engine.kernels.whole.Gated`."""

    def __init__(self, product: Linear, gate: Linear) -> None:
        self._product = product
        self._gate = gate

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, in] -> [tokens, out / 2]."""
        return self._gate(self._product(x))

    def beside(self, x: Tensor, added: Tensor, routed: Routed) -> Tensor:
        """The same with something added before the gate."""
        return self._gate(joined(self._product(x), added, routed))


def joined(out: Tensor, added: Tensor, routed: Routed) -> Tensor:
    """Add float32 [n, outputs] to the rows [tokens, outputs] that have an adapter, in place."""
    out[routed.rows] = (out[routed.rows].float() + added).to(out.dtype)
    return out


class ReferenceOps:
    """The operations as their definitions read. Promises and shapes: see `engine.kernels.ops.Ops`."""

    capturable: bool = False
    rows: RowKernels | None = None

    def embedding(self, tokens: Tensor, weight: Tensor) -> Tensor:
        return functional.embedding(tokens, weight)

    def linear(self, weight: Weight, bias: Tensor | None, *, wide: bool = False) -> Linear:
        if isinstance(weight, Int8Weight):
            return self._linear_in_8_bits(weight, bias, wide)
        meant = whole(weight)

        def apply(x: Tensor) -> Tensor:
            out = functional.linear(x, meant, bias)
            return out.float() if wide else out

        return apply

    def _linear_in_8_bits(self, weight: Int8Weight, bias: Tensor | None, wide: bool) -> Linear:
        scales, offsets = weight.scales, None if bias is None else bias.float()
        sums = self._sums_of_8_bits(weight.numbers)

        def apply(x: Tensor) -> Tensor:
            numbers, steps = in_8_bits(x)
            out = sums(numbers).float() * (steps[:, None] * scales)
            if offsets is not None:
                out = out + offsets
            return out if wide else out.to(x.dtype)

        return apply

    def _sums_of_8_bits(self, weight: Tensor) -> Linear:
        """Prepare int8 [tokens, in] -> exact sums [tokens, out]: float64 holds all that may come of int8."""
        columns = weight.double().T
        return lambda numbers: numbers.double() @ columns

    def gated(self, weight: Weight, bias: Tensor | None, activation: Activation) -> Gated:
        return GatedProduct(self.linear(weight, bias), self._gate(activation))

    def _gate(self, activation: Activation) -> Linear:
        """Prepare gating the second half by the first: [tokens, 2n] -> [tokens, n]."""
        return self._silu_and_mul if activation == "silu" else self._gelu_and_mul

    def adapted(self, adapters: Sequence[Sequence[LowRank]], outputs: int) -> Added:
        def linear(weight: Tensor) -> Linear:
            return self.linear(weight, None)

        def wide(weight: Tensor) -> Linear:
            return self.linear(weight, None, wide=True)

        return added_apart([products_of(parts, linear, wide) for parts in adapters], outputs)

    def experts(self, gate_up: Sequence[Weight], down: Sequence[Weight], activation: Activation) -> Mix:
        return mixed_apart(
            [
                (self.gated(first, None, activation), self.linear(second, None, wide=True))
                for first, second in zip(gate_up, down, strict=True)
            ]
        )

    def whole(self, decoder: WholeDecoder) -> Whole | None:
        return None

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        return (normal * weight.float()).to(x.dtype)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        total = x + residual
        return self.rms_norm(total, weight, eps), total

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        wide = x.float()
        normal = (wide - wide.mean(-1, keepdim=True)) * torch.rsqrt(wide.var(-1, keepdim=True, correction=0) + eps)
        return (normal * weight.float() + bias.float()).to(x.dtype)

    def rotary(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return x * cos + torch.roll(x, x.shape[-1] // 2, dims=-1) * sin

    def _silu_and_mul(self, x: Tensor) -> Tensor:
        """Gate the second half by the first: [tokens, 2n] -> [tokens, n]."""
        gate, up = x.chunk(2, dim=-1)
        return functional.silu(gate) * up

    def _gelu_and_mul(self, x: Tensor) -> Tensor:
        """The same with GELU in its approximation by a tangent."""
        gate, up = x.chunk(2, dim=-1)
        return functional.gelu(gate, approximate="tanh") * up

    def gelu(self, x: Tensor) -> Tensor:
        return functional.gelu(x)

    def write_kv(self, key: Tensor, value: Tensor, cache: Tensor, slots: Tensor) -> None:
        entries = cache.flatten(0, 1)  # [slots, 2, kv_heads, head_dim]
        entries[slots] = torch.stack((key, value), dim=1)

    def turn_and_store(
        self, qk: Tensor, value: Tensor, angles: tuple[Tensor, Tensor], cache: Tensor, slots: Tensor
    ) -> Tensor:
        cos, sin = angles
        width, kv_heads = cos.shape[-1], value.shape[1]
        if width == qk.shape[-1]:
            turned = self.rotary(qk, cos, sin)
        else:
            turned = torch.cat((self.rotary(qk[..., :width], cos, sin), qk[..., width:]), -1)
        self.write_kv(turned[:, -kv_heads:], value, cache, slots)
        return turned[:, :-kv_heads]

    def attention(
        self, batch: PagedBatch, scale: float, window: int | None = None, cap: float | None = None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        def attend(query: Tensor, cache: Tensor) -> Tensor:
            out = torch.empty_like(query)
            first = 0
            for table, count, length in zip(batch.tables, batch.counts.tolist(), batch.lengths.tolist(), strict=True):
                # blocks before what the first of them sees are others' by now
                skipped = 0 if window is None else max(0, length - count + 1 - window) // batch.block_size
                keys = length - skipped * batch.block_size
                held = cache[table[skipped:]].flatten(0, 1)[:keys]  # [keys, 2, kv_heads, head_dim]
                rows = slice(first, first + count)
                out[rows] = _attend_one(query[rows], held[:, 0], held[:, 1], scale, window, cap)
                first += count
            return out

        return attend

    def attention_both_ways(
        self, counts: Sequence[int], scale: float, reach: int | None = None
    ) -> Callable[[Tensor], Tensor]:
        def attend(qkv: Tensor) -> Tensor:
            parts = []
            for own in qkv.split_with_sizes(counts):
                query, key, value = own.float().unbind(1)  # [count, heads, head_dim]
                scores = torch.einsum("qhd,khd->hqk", query, key) * scale
                if reach is not None:
                    near = torch.ones_like(scores, dtype=torch.bool).tril(reach).triu(-reach)
                    scores = scores.masked_fill(~near, float("-inf"))
                parts.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value))
            return torch.cat(parts).to(qkv.dtype)

        return attend


def _attend_one(
    query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None, cap: float | None
) -> Tensor:
    """Attend with the last queries of one sequence to its end. [count, heads, head_dim] as `query`."""
    count, heads, _ = query.shape
    length, kv_heads, _ = key.shape
    key = key.float().repeat_interleave(heads // kv_heads, dim=1)  # [length, heads, head_dim]
    value = value.float().repeat_interleave(heads // kv_heads, dim=1)
    scores = torch.einsum("qhd,khd->hqk", query.float(), key) * scale
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    seen = torch.ones(count, length, dtype=torch.bool, device=query.device).tril(length - count)
    if window is not None:
        seen = seen.triu(length - count - window + 1)
    weights = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, value).to(query.dtype)
