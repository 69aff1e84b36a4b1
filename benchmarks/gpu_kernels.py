"""The kernels of `gpu.py`: each beside plain PyTorch on odd shapes, and timed on the shapes of models.

Bandwidth and rates are told as fractions of what a copy and a matrix product of PyTorch reach on the same device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton.testing
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu_bounds import mixture
from engine.kernels import mixing
from engine.kernels.batch import PagedBatch
from engine.kernels.chances import Chances
from engine.kernels.gpu import experts, lora, pointwise
from engine.kernels.gpu.drawing import draw
from engine.kernels.gpu.gated import linear_gated
from engine.kernels.gpu.ops import TritonOps
from engine.kernels.gpu.products import converts_fp8
from engine.kernels.gpu.quantized import Tiling, linear
from engine.kernels.gpu.routing import route
from engine.kernels.gpu.whole_numbers import linear_in_8_bits
from engine.kernels.packing import Format, packed_linear, quantize
from engine.kernels.reference import ReferenceOps
from engine.kernels.weights import Int8Weight


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the device reaches at best, measured."""

    bandwidth: float
    """Bytes per second, read and written by a copy or read by a sum."""
    rate: float
    """Operations per second of a product in bfloat16."""


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel on some shape."""

    name: str
    compute: Callable[[], Any]
    expected: Callable[[], Any]
    moved: int = 0
    """Bytes that it has to read and write at least."""
    operations: int = 0
    """Of its matrix products."""
    within: Callable[[], tuple[Tensor, Tensor]] | None = None
    """What it is in float64, and how far from that each number may be, where that was derived."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Small and odd to be checked, or a model's to be timed."""

    rows: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    requests: int
    context: int
    chunk: int
    experts: int
    chosen: int
    vocabulary: int


ODD = Sizes(5, 96, 70, 6, 2, 24, 3, 300, 21, 5, 2, 101)
_IN_PARTS = Tiling(16, 32, 32, 2)
"""Small shapes are not cut by themselves."""

_BOTH_HALVES = Tiling(16, 32, 128)
"""One of those that are tried where a product is gated."""

EIGHT_BILLION = Sizes(4096, 4096, 14336, 32, 8, 128, 64, 2048, 2048, 128, 8, 128256)


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes on the device, the cache cleared before each."""
    return float(triton.testing.do_bench(call, warmup=10, rep=40)) / 1e3


def measure_ceilings(device: str, side: int, numbers: int) -> Ceilings:
    """Copy and sum so many numbers, multiply `side` by `side` by `side`."""
    left, right = (torch.randn(side, side, dtype=torch.bfloat16, device=device) for _ in range(2))
    rate = 2 * side**3 / seconds(lambda: left @ right)
    source = torch.ones(numbers, dtype=torch.bfloat16, device=device)
    summed = source.nbytes / seconds(lambda: source.view(torch.int32).amax())
    target = torch.empty_like(source)
    return Ceilings(max(2 * source.nbytes / seconds(lambda: target.copy_(source)), summed), rate)


def cases(sizes: Sizes, device: str, dtype: torch.dtype) -> Iterator[Case]:
    """List every kernel on such shapes."""
    generator = torch.Generator(device).manual_seed(7)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=torch.float32).to(dtype)

    yield from _pointwise(sizes, numbers)
    yield from _attention(sizes, numbers)
    yield from _products(sizes, numbers)
    yield from _whole_numbers(sizes, numbers)
    yield from _mixtures(sizes, numbers)
    logits = numbers(sizes.requests, sizes.vocabulary).float() * 3
    yield Case("draw: greedy", lambda: draw(logits, _chances(logits, 0.0)), lambda: logits.argmax(-1), logits.nbytes)
    best = _chances(logits, 1.0)._replace(top_k=torch.ones_like(_chances(logits, 1.0).top_k))
    yield Case("draw: top-k 1 of top-p 0.9", lambda: draw(logits, best), lambda: logits.argmax(-1), logits.nbytes)


def _chances(logits: Tensor, temperature: float) -> Chances:
    rows, device = len(logits), logits.device
    whole, some = torch.zeros(rows, dtype=torch.int64, device=device), torch.zeros(rows, device=device)
    return Chances(some + temperature, whole, some + 0.9, some, whole + 3, whole)


def _pointwise(sizes: Sizes, numbers: Callable[..., Tensor]) -> Iterator[Case]:
    plain = ReferenceOps()
    x, residual, weight = numbers(sizes.rows, sizes.hidden), numbers(sizes.rows, sizes.hidden), numbers(sizes.hidden)
    yield Case(
        "norm", lambda: pointwise.rms_norm(x, weight, 1e-5), lambda: plain.rms_norm(x, weight, 1e-5), 2 * x.nbytes
    )
    yield Case(
        "sum and norm",
        lambda: pointwise.add_rms_norm(x, residual, weight, 1e-5),
        lambda: plain.add_rms_norm(x, residual, weight, 1e-5),
        4 * x.nbytes,
    )
    wide = numbers(sizes.rows, 2 * sizes.inner)
    yield Case("gate", lambda: pointwise.gate(wide, "silu"), lambda: _gated(wide), wide.nbytes * 3 // 2)
    heads, dim = sizes.heads + sizes.kv_heads, sizes.head_dim
    qk, value = numbers(sizes.rows, heads, dim), numbers(sizes.rows, sizes.kv_heads, dim)
    angles = (numbers(sizes.rows, 1, dim), numbers(sizes.rows, 1, dim))
    cache, other = (torch.zeros_like(numbers(sizes.rows // 16 + 1, 16, 2, sizes.kv_heads, dim)) for _ in range(2))
    slots = torch.arange(sizes.rows, device=x.device)
    yield Case(
        "turn and store",
        lambda: (pointwise.turn_and_store(qk, value, angles, cache, slots), cache),
        lambda: (plain.turn_and_store(qk, value, angles, other, slots), other),
        2 * (qk.nbytes + value.nbytes),
    )


def _paged(requests: list[tuple[int, int]], device: torch.device) -> tuple[PagedBatch, int]:
    """Scatter (count, length) over blocks of sixteen; the slots are not needed."""
    widths = [-(-length // 16) for _, length in requests]
    order = torch.randperm(sum(widths), generator=torch.Generator().manual_seed(3))
    tables = torch.zeros(len(requests), max(widths), dtype=torch.int64)
    for row, own in zip(tables, order.split(widths), strict=True):
        row[: len(own)] = own
    counts, lengths = (np.array(column, np.int64) for column in zip(*requests, strict=True))
    return PagedBatch(order[:0].to(device), tables.to(device), counts, lengths, 16), sum(widths)


def _attention(sizes: Sizes, numbers: Callable[..., Tensor]) -> Iterator[Case]:
    ours, plain, heads, kv, dim = TritonOps(), ReferenceOps(), sizes.heads, sizes.kv_heads, sizes.head_dim
    device = numbers(1).device
    lengths = sorted(max(1, sizes.context - 7 * at) for at in range(sizes.requests))
    chunks = [(sizes.chunk, sizes.chunk), (sizes.chunk, 2 * sizes.chunk)]
    mixes = {
        "decode": [(1, length) for length in lengths],
        "decode alone": [(1, lengths[-1])],
        "chunks": chunks,
        "both": [(1, lengths[0]), *chunks],
    }
    for name, requests in mixes.items():
        batch, blocks = _paged(requests, device)
        query, cache = numbers(int(batch.counts.sum()), heads, dim), numbers(blocks, 16, 2, kv, dim)
        for window in (None, sizes.context // 3) if name == "both" else (None,):
            scores = sum(count * (length - (count - 1) / 2) for count, length in requests)
            yield Case(
                f"attention: {name}{'' if window is None else ', windowed'}",
                lambda q=query, c=cache, b=batch, w=window: ours.attention(b, dim**-0.5, w)(q, c),
                lambda q=query, c=cache, b=batch, w=window: plain.attention(b, dim**-0.5, w)(q, c),
                0 if name == "both" else cache.nbytes + 2 * query.nbytes,
                round(4 * scores * heads * dim) if name == "chunks" else 0,
            )


def _products(sizes: Sizes, numbers: Callable[..., Tensor]) -> Iterator[Case]:
    kinds: list[tuple[Format, int | None]] = [("plain", None), ("int8", None), ("fp8", None), ("int4", 32)]
    for form, group in kinds:
        if form == "fp8" and not converts_fp8(numbers(1).device):
            continue
        weight = quantize(numbers(sizes.inner, sizes.hidden), form, group)
        for rows in (1, 16, sizes.rows):
            x = numbers(rows, sizes.hidden)
            yield Case(
                f"product: {form}, {rows} rows",
                lambda x=x, w=weight: linear(x, w),
                lambda x=x, w=weight: packed_linear(x, w),
                weight.data.nbytes if rows < 64 else 0,
                2 * rows * weight.out * weight.width if rows >= 64 else 0,
            )

    weight = quantize(numbers(2 * sizes.inner, sizes.hidden) / 8, "plain")
    for rows in (1, 16):
        x = numbers(rows, sizes.hidden)
        yield Case(
            f"product, gated: {rows} rows",
            lambda x=x, w=weight: linear_gated(x, w, "silu", _BOTH_HALVES),
            lambda x=x, w=weight: _gated(packed_linear(x, w)),
            weight.data.nbytes,
        )
    weight, x = quantize(numbers(sizes.inner, sizes.hidden), "plain"), numbers(1, sizes.hidden)
    yield Case(
        "product: plain, 1 row in parts",
        lambda w=weight: linear(x, w, tiling=_IN_PARTS),
        lambda w=weight: packed_linear(x, w),
        weight.data.nbytes,
    )


def _whole_numbers(sizes: Sizes, numbers: Callable[..., Tensor]) -> Iterator[Case]:
    weight, plain = Int8Weight.of(numbers(sizes.inner, sizes.hidden)), ReferenceOps()
    for rows in (1, sizes.rows):
        x = numbers(rows, sizes.hidden)
        yield Case(
            f"product in 8 bits: {rows} rows",
            lambda x=x: linear_in_8_bits(x, weight, None, x.dtype),
            lambda x=x: plain.linear(weight, None)(x),
            weight.numbers.nbytes if rows < 64 else 0,
            2 * rows * weight.numbers.numel() if rows >= 64 else 0,
        )
    row = numbers(1, sizes.hidden)
    yield Case(
        "product in 8 bits: 1 row in parts",
        lambda: linear_in_8_bits(row, weight, None, row.dtype, _IN_PARTS),
        lambda: plain.linear(weight, None)(row),
        weight.numbers.nbytes,
    )


def _mixtures(sizes: Sizes, numbers: Callable[..., Tensor]) -> Iterator[Case]:
    hidden, inner = sizes.hidden // 2, sizes.inner // 8
    gate_up = quantize(numbers(sizes.experts, 2 * inner, hidden) / 8, "plain")
    down = quantize(numbers(sizes.experts, hidden, inner) / 8, "plain")
    for tokens in (1, sizes.requests, sizes.rows):
        x = numbers(tokens, hidden)
        shares, choices = mixing.route(numbers(tokens, sizes.experts), sizes.chosen, renormalised=True)
        each = gate_up.data[0].nbytes + down.data[0].nbytes
        used = int(choices.unique().numel())
        yield Case(
            f"experts: {tokens} tokens",
            lambda x=x, s=shares, c=choices: experts.mix(x, gate_up, down, s, c, "silu"),
            lambda x=x, s=shares, c=choices: mixing.mix(x, gate_up, down, s, c, "silu"),
            used * each if tokens < 1024 else 0,
            6 * tokens * sizes.chosen * inner * hidden if tokens >= 1024 else 0,
            lambda x=x, s=shares, c=choices: mixture(x, gate_up, down, s, c, "silu"),
        )
    # none equals another
    logits = numbers(sizes.rows, sizes.experts).float() + torch.arange(sizes.experts, device=gate_up.device) / 997
    yield Case(
        "experts: choice",
        lambda: route(logits, sizes.chosen, renormalised=True),
        lambda: mixing.route(logits, sizes.chosen, renormalised=True),
        logits.nbytes,
    )
    rank, count = 16, 4
    x, first, second = numbers(sizes.rows, hidden), numbers(count, rank, hidden) / 8, numbers(count, inner, rank) / 8
    adapters = torch.arange(sizes.rows, device=x.device) % (count + 1) - 1
    factors, zeros = torch.ones(count, device=x.device), torch.zeros_like(numbers(sizes.rows, inner))

    def adapted() -> Tensor:
        out, aligned = zeros.clone(), lora.by_adapter(adapters, count)
        lora.expand(lora.shrink(x, first, aligned), second, factors, aligned, out)
        return out

    yield Case("adapters", adapted, lambda: mixing.adapt(x, first, second, factors, adapters).to(x.dtype), x.nbytes)


def check(case: Case, dtype: torch.dtype) -> float:
    """Return how far a kernel is from the reference, as a share of the largest number.

    Raises:
        AssertionError: Farther than rounding explains.
    """
    found, expected = case.compute(), case.expected()
    if case.within is not None:
        expected, bound = case.within()
        within = bool(((found.double() - expected).abs() <= bound).all())
        assert within, f"{case.name}: farther from float64 than its roundings explain"
    pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
    worst = 0.0
    for own, other in pairs:
        assert own.shape == other.shape, case.name
        assert own.isfinite().all(), f"{case.name}: a number is not finite"
        far = (own.float() - other.float()).abs().max() / other.float().abs().max().clamp(min=1e-6)
        worst = max(worst, float(far))
    assert worst <= (1e-4 if dtype == torch.float32 else 3e-2), f"{case.name}: off by {worst:.2%} of the largest number"
    return worst


def measure(case: Case, ceilings: Ceilings) -> str:
    """Time a kernel; one line."""
    spent = seconds(case.compute)
    told = [f"{case.name:32s} {spent * 1e6:9.1f} us"]
    if case.moved:
        told.append(f"{case.moved / spent / ceilings.bandwidth:6.1%} of bandwidth")
    if case.operations:
        told.append(f"{case.operations / spent / ceilings.rate:6.1%} of the rate of products")
    return "  ".join(told)


def _gated(wide: Tensor) -> Tensor:
    gate, up = wide.chunk(2, dim=-1)
    return functional.silu(gate) * up
