"""Products with few rows, on the way that proved fastest on this device when the weight was loaded.

With few rows a product is as fast as its weight can be read, and the vendor's library does not read every shape at full
speed. A weight's shape is tried once, for one row, for sixteen and for sixty-four, with the library and with our own
kernel under several tilings. What came out best may differ between devices, and with it the last bits.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final

import torch
import triton
import triton.testing
from torch import Tensor
from triton.errors import TritonError

from engine.kernels.gpu.gated import linear_gated
from engine.kernels.gpu.quantized import Tiling, linear, tiling_for
from engine.kernels.packing import Packed, plain
from engine.kernels.products import Activation, Linear

CLASSES: Final = (1, 16, 64)
"""Numbers of rows that are tried; more than that are the library's."""

_SHAPES: Final = ((32, 128), (32, 256), (64, 128), (64, 256), (128, 128))
"""Columns and depth of tilings that are tried."""

_GATED: Final = ((16, 128), (16, 256), (32, 128), (32, 256), (64, 128))
"""The same where both halves of a product are multiplied and gated."""

_HELD: Final = 64 * 128
"""Numbers of `x` that a program looks at in one step, at most: they are held several times over."""

_PROGRAMS: Final = (256, 512)
"""Into about how many programs."""

Clock = Callable[[Callable[[], Tensor]], float]
"""How long a call takes on the device."""


def on_accelerator(call: Callable[[], Tensor]) -> float:
    """Measure in milliseconds, with nothing of the weight left in the device's cache; for ever if it cannot run."""
    try:
        return float(triton.testing.do_bench(call, warmup=5, rep=15))
    except TritonError:  # no room for the tiling in a multiprocessor's memory, or no way to compile it for this device
        return inf


class FewRows:
    """What was found, by shape; a shape is tried once."""

    def __init__(self, clock: Clock = on_accelerator) -> None:
        self._clock = clock
        self._found: dict[Any, tuple[Tiling | None, ...]] = {}

    def prepare(self, library: Linear, weight: Tensor, bias: Tensor | None, *, wide: bool) -> Linear:
        """Give `library` for many rows, and for few ones what is fastest; outputs are float32 if `wide`."""
        packed, dtype = plain(weight), torch.float32 if wide else weight.dtype

        def own(x: Tensor, tiling: Tiling) -> Tensor:
            return linear(x, packed, bias, tiling, dtype)

        return self._chosen((weight.shape, weight.dtype, wide), library, own, packed, candidates)

    def prepare_gated(self, apart: Linear, weight: Tensor, activation: Activation) -> Linear:
        """Give `apart` for many rows, which multiplies and then gates, and for few ones what is fastest."""
        packed = plain(weight)

        def own(x: Tensor, tiling: Tiling) -> Tensor:
            return linear_gated(x, packed, activation, tiling)

        key = (weight.shape, weight.dtype, activation)
        return self._chosen(key, apart, own, packed, candidates_gated)

    def _chosen(
        self,
        key: Any,
        library: Linear,
        own: Callable[[Tensor, Tiling], Tensor],
        weight: Packed,
        listed: Callable[[int, Packed], Sequence[Tiling]],
    ) -> Linear:
        if key not in self._found:
            self._found[key] = tuple(
                self._fastest(library, own, weight, rows, listed(rows, weight)) for rows in CLASSES
            )
        tilings = self._found[key]

        def apply(x: Tensor) -> Tensor:
            place = bisect.bisect_left(CLASSES, len(x))
            tiling = tilings[place] if place < len(CLASSES) else None
            return library(x) if tiling is None else own(x, tiling)

        return apply

    def _fastest(
        self,
        library: Linear,
        own: Callable[[Tensor, Tiling], Tensor],
        weight: Packed,
        rows: int,
        tilings: Sequence[Tiling],
    ) -> Tiling | None:
        """Try; None is the library."""
        x = torch.zeros((rows, weight.width), dtype=weight.data.dtype, device=weight.data.device)
        best, least = None, self._clock(lambda: library(x))
        for tiling in tilings:
            spent = self._clock(lambda tiling=tiling: own(x, tiling))  # type: ignore[misc]
            if spent < least:
                best, least = tiling, spent
        return best


def candidates(rows: int, weight: Packed) -> Sequence[Tiling]:
    """List the tilings to try for so many rows."""
    high = max(16, triton.next_power_of_2(rows))
    found = [tiling_for(rows, weight)]
    for columns, depth in _SHAPES:
        if high * depth > _HELD:
            continue
        for programs in _PROGRAMS:
            steps = triton.cdiv(weight.width, depth)
            parts = max(1, min(programs // triton.cdiv(weight.out, columns), steps))
            found.append(Tiling(high, columns, depth, parts))
    return list(dict.fromkeys(found))


def candidates_gated(rows: int, weight: Packed) -> Sequence[Tiling]:
    """List the tilings to try where a program computes the columns of both halves."""
    high = max(16, triton.next_power_of_2(rows))
    return [Tiling(high, columns, depth) for columns, depth in _GATED if high * depth <= _HELD]
