"""The path of NVIDIA and AMD accelerators: Triton for attention and for what is done row by row, PyTorch for the rest.

Attention, norms and gates sum up in an order that does not depend on the batch. Products do not: the vendor's library
chooses by the number of rows, and so do we for few rows; a request's last bits may depend on its neighbours by way of
them, unless `SteadyTritonOps` are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from engine.kernels.adapters import Added, LowRank
from engine.kernels.batch import Laid, PagedBatch, on_device
from engine.kernels.chances import RowKernels, unsound
from engine.kernels.gathered import GatheredOps
from engine.kernels.gpu.decode import decode
from engine.kernels.gpu.drawing import draw
from engine.kernels.gpu.experts import experts_tiling, mix
from engine.kernels.gpu.few import FewRows
from engine.kernels.gpu.keys import Look
from engine.kernels.gpu.lora import added_together
from engine.kernels.gpu.pointwise import add_rms_norm, gate, rms_norm, turn_and_store
from engine.kernels.gpu.prefill import cut, prefill, tile_for
from engine.kernels.gpu.products import converts_fp8
from engine.kernels.gpu.quantized import Tiling, linear, steady_tiling
from engine.kernels.gpu.routing import route
from engine.kernels.gpu.whole_numbers import linear_in_8_bits
from engine.kernels.mixing import Mix
from engine.kernels.packing import Packed, alike, plain, together
from engine.kernels.products import Activation, Linear
from engine.kernels.reference import GatedProduct
from engine.kernels.weights import Int8Weight, Weight, whole
from engine.kernels.whole import Gated

_STEADY_ROWS: Final = 1024
"""Rows of experts by which their products are parted, whatever there are."""


class TritonOps(GatheredOps):
    """Promises and shapes: see `engine.kernels.ops.Ops`."""

    capturable = True
    rows = RowKernels(draw, unsound, run_ahead=True, route=route)

    def __init__(self, few: FewRows | None = None) -> None:
        """Make them; `few` finds out how products with few rows are done best, on an accelerator if not given."""
        self._few = few

    def linear(self, weight: Weight, bias: Tensor | None, *, wide: bool = False) -> Linear:
        weight = _readable(weight)
        if isinstance(weight, Int8Weight):
            return _in_8_bits(weight, bias, wide=wide)
        if isinstance(weight, Packed):
            return _in_few_bits(weight, bias, None, wide=wide)
        library = super().linear(weight, bias, wide=wide)
        if self._few is None and weight.device.type == "cuda":
            self._few = FewRows()
        return library if self._few is None else self._few.prepare(library, weight, bias, wide=wide)

    def gated(self, weight: Weight, bias: Tensor | None, activation: Activation) -> Gated:
        apart = GatedProduct(self.linear(weight, bias), self._gate(activation))
        if self._few is None or bias is not None or not isinstance(weight, Tensor):
            return apart
        return _FewGated(apart, self._few.prepare_gated(apart, weight, activation))

    def _gate(self, activation: Activation) -> Linear:
        return lambda x: gate(x, activation)

    def adapted(self, adapters: Sequence[Sequence[LowRank]], outputs: int) -> Added:
        return added_together(adapters, outputs)

    def experts(self, gate_up: Sequence[Weight], down: Sequence[Weight], activation: Activation) -> Mix:
        first, second = _stacked(gate_up), _stacked(down)
        if first is None or second is None:
            self.capturable = False  # in 8 bits each is a product of its own, of the rows that the host is told of
            return super().experts(gate_up, down, activation)

        def mixed(x: Tensor, shares: Tensor, choices: Tensor) -> Tensor:
            tiling = self._experts_tiling(choices.numel(), first)
            return mix(x, first, second, shares, choices, activation, tiling)

        return mixed

    def _experts_tiling(self, rows: int, weight: Packed) -> Tiling:
        return experts_tiling(rows, weight)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return rms_norm(x, weight, eps)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return (
            add_rms_norm(x, residual, weight, eps) if x.dim() == 2 else super().add_rms_norm(x, residual, weight, eps)
        )

    def turn_and_store(
        self, qk: Tensor, value: Tensor, angles: tuple[Tensor, Tensor], cache: Tensor, slots: Tensor
    ) -> Tensor:
        return turn_and_store(qk, value, angles, cache, slots)

    def attention(
        self, batch: PagedBatch, scale: float, window: int | None = None, cap: float | None = None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        laid, look = laid_out(batch), Look(scale, window, cap)
        singles = self._apart(batch)
        several = singles < len(batch.counts)

        def attend(query: Tensor, cache: Tensor) -> Tensor:
            out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
            if singles:
                decode(query, cache, batch.tables, laid.lengths, laid.longest, look, out)
            if several:
                shared = query.shape[1] // cache.shape[3]
                each = tile_for(query, shared)[0] // shared
                tiles = laid.tiles.get(each)
                if tiles is None:
                    tiles = laid.tiles[each] = on_device(cut(batch.counts, batch.lengths, each, singles), query.device)
                prefill(query, cache, batch.tables, tiles, look, out)
            return out

        return attend

    def _apart(self, batch: PagedBatch) -> int:
        """Say how many requests, the first ones of a batch, have one token and attend by the kernel for that."""
        return batch.singles


class _FewGated:
    """As `engine.kernels.whole.Gated`: the way that was fastest, but where something is added before the gate."""

    def __init__(self, apart: GatedProduct, fastest: Linear) -> None:
        self._fastest = fastest
        self.beside = apart.beside

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, in] -> [tokens, out / 2]."""
        return self._fastest(x)


def _readable(weight: Weight) -> Weight:
    """Open a weight in fp8, which takes its memory, on a device whose kernels cannot."""
    closed = isinstance(weight, Packed) and weight.format == "fp8" and not converts_fp8(weight.device)
    return whole(weight) if closed else weight


def _in_8_bits(weight: Int8Weight, bias: Tensor | None, *, wide: bool) -> Linear:
    def apply(x: Tensor) -> Tensor:
        return linear_in_8_bits(x, weight, bias, torch.float32 if wide else x.dtype)

    return apply


def _in_few_bits(weight: Packed, bias: Tensor | None, tiling: Tiling | None, *, wide: bool) -> Linear:
    dtype = torch.float32 if wide else weight.dtype

    def apply(x: Tensor) -> Tensor:
        return linear(x, weight, bias, tiling, dtype)

    return apply


def _stacked(weights: Sequence[Weight]) -> Packed | None:
    """Make one of experts of one format; None where they are in 8 bits on both sides, or unlike."""
    if any(isinstance(weight, Int8Weight) for weight in weights):
        return None
    packed = [weight for weight in map(_readable, weights) if isinstance(weight, Packed)]
    if len(packed) == len(weights) and alike(packed):
        return together(packed, torch.stack)
    return plain(torch.stack([whole(weight) for weight in weights]))


def laid_out(batch: PagedBatch) -> Laid:
    """Prepare a batch once for all of its layers and groups."""
    laid: Laid | None = batch.shared.get(Laid)
    if laid is None:
        singles = batch.lengths[: batch.singles]
        laid = Laid(on_device(singles, batch.tables.device), int(singles.max(initial=0)), {})
        batch.shared[Laid] = laid
    return laid


class SteadyTritonOps(TritonOps):
    """Everything in an order that does not depend on the batch: a request's tokens depend neither on its neighbours nor
    on what of its prompt was known before.

    A token that is decoded goes through the kernel of those that are computed with others of their prompt, and steps
    are launched one by one: that kernel's tiles are cut anew for each.
    """

    capturable = False

    def linear(self, weight: Weight, bias: Tensor | None, *, wide: bool = False) -> Linear:
        weight = _readable(weight)
        if isinstance(weight, Int8Weight):  # its sums are exact in any order
            return _in_8_bits(weight, bias, wide=wide)
        packed = replace(plain(weight), dtype=weight.dtype) if isinstance(weight, Tensor) else weight
        return _in_few_bits(packed, bias, steady_tiling(packed), wide=wide)

    def _experts_tiling(self, rows: int, weight: Packed) -> Tiling:
        return experts_tiling(_STEADY_ROWS, weight)

    def _apart(self, batch: PagedBatch) -> int:
        return 0
