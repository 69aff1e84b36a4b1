"""The instruction set on kernels of our own.

What a row gives does not depend on the rows beside it: products sum up in one order whatever their number, and
attention looks at keys in spans that begin at the same places for everybody.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from engine.compiled import library
from engine.errors import NotEnoughMemory
from engine.kernels import chances
from engine.kernels.adapters import Added, LowRank, Products, Routed, added_apart, products_of
from engine.kernels.batch import PagedBatch
from engine.kernels.chances import RowKernels
from engine.kernels.cpu import CpuOps
from engine.kernels.native.shapes import Batch, Cache, Chances, Held, Layer, Look, Part, Parts, Shape, Turning
from engine.kernels.products import Activation, Linear
from engine.kernels.weights import TOGETHER, Int8Weight, Weight, unpacked
from engine.kernels.whole import Gated, Turn, Whole, WholeDecoder, WholeLayer

_FORMATS: Final = {torch.float32: 0, torch.bfloat16: 1}
"""Those that the kernels compute in, by what they are told."""

_GATES: Final = {"silu": 1, "gelu_tanh": 2}


_LANES: Final = 16


class _Crew:
    """The threads that compute; whoever works with them keeps them."""

    def __init__(self, kernels: Any, threads: int) -> None:
        self.handle: int = kernels.crew_new(threads)
        _free_with(self, kernels.crew_free, self.handle)


def _free_with(owner: object, free: Callable[..., None], *handle: int) -> None:
    """Free what the kernels hold when its owner goes, but not when the process ends: other threads may be inside."""
    weakref.finalize(owner, free, *handle).atexit = False


class NativeOps(CpuOps):
    """Kernels in C++; what they lack is done as `CpuOps` does. Promises and shapes: see `engine.kernels.ops.Ops`."""

    def __init__(self) -> None:
        """Load the kernels.

        Raises:
            PlatformUnavailable: This machine cannot run or build them.
        """
        self._library = library()
        self._crew = _Crew(self._library, torch.get_num_threads())
        self.rows = _row_kernels(self._library, self._crew)

    def linear(self, weight: Weight, bias: Tensor | None, *, wide: bool = False) -> Linear:
        weight = unpacked(weight)
        if _has_product(weight):
            return NativeProduct(self._library, self._crew, weight, bias, wide=wide)
        return super().linear(weight, bias, wide=wide)

    def gated(self, weight: Weight, bias: Tensor | None, activation: Activation) -> Gated:
        weight = unpacked(weight)
        if _has_product(weight):
            return NativeProduct(self._library, self._crew, weight, bias, gate=_GATES[activation])
        return super().gated(weight, bias, activation)

    def adapted(self, adapters: Sequence[Sequence[LowRank]], outputs: int) -> Added:
        if all(_has_product(weight) for parts in adapters for part in parts for weight in (part.down, part.up)):
            return NativeAdded(self._library, self._crew, adapters, outputs)
        return super().adapted(adapters, outputs)

    def write_kv(self, key: Tensor, value: Tensor, cache: Tensor, slots: Tensor) -> None:
        if not self._fits(cache):
            super().write_kv(key, value, cache, slots)
            return
        own = (key.contiguous(), value.contiguous(), slots.contiguous())
        shape = ctypes.byref(_cache_shape(cache))
        keys, values, places = (part.data_ptr() for part in own)
        self._library.cache_write(_FORMATS[cache.dtype], shape, cache.data_ptr(), places, len(slots), keys, values)

    def attention(
        self, batch: PagedBatch, scale: float, window: int | None = None, cap: float | None = None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        prepared: list[Callable[[Tensor, Tensor], Tensor]] = []

        def attend(query: Tensor, cache: Tensor) -> Tensor:
            if self._fits(cache):
                return self._attend(batch, Look(scale, cap or 0.0, window or 0), query, cache)
            if not prepared:
                prepared.append(super(NativeOps, self).attention(batch, scale, window, cap))
            return prepared[0](query, cache)

        return attend

    def whole(self, decoder: WholeDecoder) -> Whole | None:
        products = [part for one in decoder.layers for part in (one.qkv, one.out, one.gate_up, one.down)]
        if decoder.head_dim % _LANES or not all(isinstance(part, NativeProduct) for part in products):
            return None
        added = [part for one in decoder.layers for part in one.added if part is not None]
        if not all(isinstance(part, NativeAdded) for part in added):
            return None
        return NativeDecoder(self._library, self._crew, decoder)

    def _fits(self, cache: Tensor) -> bool:
        """Whether our kernels keep keys and values in this cache, in an order of their own, or PyTorch's do."""
        return cache.dtype in _FORMATS and cache_fits(cache.shape[1], cache.shape[4])

    def _attend(self, batch: PagedBatch, look: Look, query: Tensor, cache: Tensor) -> Tensor:
        query = query.contiguous()
        tokens, heads, head_dim = query.shape
        out = torch.empty_like(query)
        laid = _Laid((batch,), tokens, None)
        self._library.attention_run(
            self._crew.handle,
            _FORMATS[cache.dtype],
            ctypes.byref(_cache_shape(cache)),
            ctypes.byref(look),
            ctypes.byref(laid.batch),
            query.data_ptr(),
            heads * head_dim,
            heads,
            cache.data_ptr(),
            out.data_ptr(),
        )
        return out


def _row_kernels(kernels: Any, crew: _Crew) -> RowKernels:
    """Give those that work with this crew."""

    def draw(logits: Tensor, by: chances.Chances) -> Tensor:
        tokens = torch.empty(len(logits), dtype=torch.int64)
        order = (by.temperature, by.top_p, by.min_p, by.top_k, by.seed, by.position)
        own = Chances(*(part.data_ptr() for part in order))
        rows = (logits.data_ptr(), logits.stride(0), *logits.shape)
        kernels.draw_run(crew.handle, *rows, ctypes.byref(own), tokens.data_ptr())
        return tokens

    def unsound(x: Tensor) -> Tensor | None:
        if x.dtype not in _FORMATS or x.stride(-1) != 1:
            return chances.unsound(x)
        rows = (crew.handle, _FORMATS[x.dtype], x.data_ptr(), x.stride(0), *x.shape)
        if not kernels.unsound_run(*rows, None):
            return None
        told = torch.empty(len(x), dtype=torch.bool)
        kernels.unsound_run(*rows, told.data_ptr())
        return told

    return RowKernels(draw, unsound)


def cache_fits(block_size: int, head_dim: int) -> bool:
    """Say whether blocks and heads of these sizes are what the kernels take sixteen at a time."""
    return block_size % _LANES == 0 and head_dim % _LANES == 0


class NativeProduct:
    """A weight, packed, in pages of 2 MiB: [tokens, in] -> [tokens, out], or half as many if it gates."""

    def __init__(
        self,
        kernels: Any,
        crew: _Crew,
        weight: Tensor | Int8Weight,
        bias: Tensor | None,
        *,
        wide: bool = False,
        gate: int = 0,
    ) -> None:
        """Pack [out, in] and bias [out]; the outputs are float32 if `wide`.

        Raises:
            NotEnoughMemory: There is no room for it.
        """
        self._library = kernels
        self._crew = crew
        self.format = _FORMATS[weight.dtype]
        """What it computes in, as the kernels are told."""
        self._dtype = weight.dtype
        self._wide = wide
        self._gate = gate
        numbers, scales = (weight.numbers, weight.scales) if isinstance(weight, Int8Weight) else (weight, None)
        out, self._in = numbers.shape
        self._out = out // 2 if gate else out
        numbers = numbers.contiguous()
        offsets = None if bias is None else bias.float().contiguous()
        beside = (None if part is None else part.data_ptr() for part in (scales, offsets))
        own = (self.format, numbers.data_ptr(), *beside, out, self._in, gate)
        try:
            self.handle: int = kernels.product_new(*own)
            """What the kernels know it by."""
        except MemoryError as error:
            mend = "take a smaller model, or free memory"
            raise NotEnoughMemory("packed weights", numbers.nbytes, None, mend) from error
        _free_with(self, kernels.product_free, self.format, self.handle)

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, in] -> [tokens, out]."""
        return self._run(x, None)

    def beside(self, x: Tensor, added: Tensor, routed: Routed) -> Tensor:
        """As `engine.kernels.whole.Gated` says; only of a product that gates."""
        added = added.contiguous()
        rows = np.zeros(len(x), np.uintp)
        rows[routed.places] = added.data_ptr() + np.arange(len(added), dtype=np.uintp) * np.uintp(added.shape[1] * 4)
        return self._run(x, rows.ctypes.data)

    def _run(self, x: Tensor, beside: int | None) -> Tensor:
        if x.dtype is not self._dtype or x.dim() != 2 or x.shape[1] != self._in:
            raise ValueError(f"x is {x.dtype} {list(x.shape)}, not {self._dtype} [tokens, {self._in}]")
        if x.stride(-1) != 1:
            x = x.contiguous()
        out = torch.empty((len(x), self._out), dtype=torch.float32 if self._wide else x.dtype)
        own = (self._crew.handle, self.format, self.handle, x.data_ptr(), x.stride(0), len(x))
        if self._gate:
            self._library.product_run_gated(*own, self._gate, beside, out.data_ptr())
        else:
            self._library.product_run(*own, out.data_ptr(), self._wide)
        return out


class NativeAdded:
    """What adapters add to a product, on products of their own."""

    def __init__(self, kernels: Any, crew: _Crew, adapters: Sequence[Sequence[LowRank]], outputs: int) -> None:
        """Pack the adapters' weights."""
        self._kept: list[Any] = []

        def product(weight: Tensor, *, wide: bool = False) -> NativeProduct:
            self._kept.append(NativeProduct(kernels, crew, weight, None, wide=wide))
            return self._kept[-1]  # type: ignore[no-any-return]

        products = [products_of(parts, product, partial(product, wide=True)) for parts in adapters]
        self._added = added_apart(products, outputs)
        self.parts = (Parts * len(adapters))(*map(self._named, products))
        """Of each adapter, as the kernels read them."""

    def _named(self, products: Products) -> Parts:
        down, ups = products
        if not isinstance(down, NativeProduct):
            return Parts(None, None, 0)
        own = (Part * len(ups))(
            *(Part(up.product.handle, up.ranks.start, up.outputs.start) for up in ups)  # type: ignore[attr-defined]
        )
        self._kept.append(own)
        return Parts(down.handle, ctypes.addressof(own), len(ups))

    def __call__(self, x: Tensor, routed: Routed) -> Tensor:
        """As `engine.kernels.adapters.Added` says."""
        return self._added(x, routed)


class NativeDecoder:
    """All layers of a decoder in one call."""

    def __init__(self, kernels: Any, crew: _Crew, decoder: WholeDecoder) -> None:
        self._library = kernels
        self._crew = crew
        self._decoder = decoder
        self._format: int = decoder.layers[0].qkv.format  # type: ignore[attr-defined]
        self._trunks: dict[int, int] = {}
        """By the size of blocks."""
        self._kept: list[Tensor] = []
        """What the kernels point to."""

    def __call__(
        self,
        x: Tensor,
        positions: Tensor,
        batches: Sequence[PagedBatch],
        caches: Sequence[Tensor],
        routed: Routed | None,
    ) -> Tensor | None:
        """As `Whole` says; `x` is overwritten with what is returned."""
        size = batches[0].block_size
        if not cache_fits(size, self._decoder.head_dim):
            return None
        if size not in self._trunks:
            self._trunks[size] = self._load(size)
        laid = _Laid(batches, len(x), positions, routed)
        memory = (ctypes.c_void_p * len(caches))(*(cache.data_ptr() for cache in caches))
        self._library.trunk_forward(
            self._crew.handle, self._format, self._trunks[size], ctypes.byref(laid.batch), memory, x.data_ptr()
        )
        return x

    def _load(self, block_size: int) -> int:
        """Tell the kernels of all layers."""
        own = self._decoder
        turns = list({id(layer.turn): layer.turn for layer in own.layers}.values())
        layers = (Layer * len(own.layers))(
            *(
                Layer(
                    *(part.handle for part in (one.qkv, one.out, one.gate_up, one.down)),  # type: ignore[attr-defined]
                    *map(self._numbers, (one.before, one.behind_attention, one.between, one.behind, one.head_norm)),
                    one.wide_norm,
                    one.window or 0,
                    next(at for at, turn in enumerate(turns) if turn is one.turn),
                    one.group,
                    (ctypes.c_void_p * 4)(*map(_parts, one.added)),
                )
                for one in own.layers
            )
        )
        shape = Shape(
            own.last_norm.shape[0],
            *(own.heads, own.kv_heads, own.head_dim, own.inner, block_size),
            *(own.eps, own.scale, own.cap or 0.0, _GATES[own.activation]),
        )
        turnings = (Turning * len(turns))(*map(self._turning, turns))
        trunk: int = self._library.trunk_new(
            *(self._format, ctypes.byref(shape), layers, len(layers), _adapters(own.layers), turnings, len(turns)),
            self._numbers(own.last_norm),
        )
        _free_with(self, self._library.trunk_free, self._format, trunk)
        return trunk

    def _turning(self, turn: Turn) -> Turning:
        return Turning(self._numbers(turn.frequencies), len(turn.frequencies), turn.magnitude)

    def _numbers(self, tensor: Tensor | None) -> int | None:
        """Keep it in float32, and say where."""
        if tensor is None:
            return None
        wide = tensor.float().contiguous()
        self._kept.append(wide)  # another thread may be here too
        return wide.data_ptr()


def _parts(added: Added | None) -> int | None:
    """Say where the parts of adapters are."""
    return ctypes.addressof(added.parts) if isinstance(added, NativeAdded) else None


def _adapters(layers: Sequence[WholeLayer]) -> int:
    """Count them: every product that has any knows of all."""
    return max((len(one.parts) for layer in layers for one in layer.added if isinstance(one, NativeAdded)), default=0)


class _Laid:
    """A step's batch as the kernels read it; what it points to lives as long as it does."""

    def __init__(
        self, batches: Sequence[PagedBatch], tokens: int, positions: Tensor | None, routed: Routed | None = None
    ) -> None:
        first = batches[0]
        self._kept = [(one.slots.contiguous(), one.tables.contiguous()) for one in batches]
        self._lengths = np.ascontiguousarray((first.counts, first.lengths), np.int64)
        held = (Held * len(batches))(*(Held(slots.data_ptr(), tables.data_ptr()) for slots, tables in self._kept))
        self._held, self._positions = held, positions
        parts = () if routed is None else routed.parts
        self._routed = (
            np.zeros(0, np.int64) if routed is None else np.ascontiguousarray(routed.places, np.int64),
            np.array([adapter for adapter, _, _ in parts], np.int64),
            np.array([end for _, _, end in parts], np.int64),
        )
        self.batch = Batch(
            *(tokens, len(first.counts), self._kept[0][1].shape[1]),
            None if positions is None else positions.data_ptr(),
            *(row.ctypes.data for row in self._lengths),
            ctypes.addressof(held),
            *(len(self._routed[0]), len(parts)),
            *(row.ctypes.data for row in self._routed),
        )


def _has_product(weight: Tensor | Int8Weight) -> bool:
    """Whether the kernels multiply with such a weight: bf16 is taken in pairs, 8 bits in fours."""
    if isinstance(weight, Int8Weight):
        return weight.dtype in _FORMATS and weight.numbers.shape[1] % TOGETHER == 0
    return weight.dtype in _FORMATS and not (weight.dtype == torch.bfloat16 and weight.shape[1] % 2)


def _cache_shape(cache: Tensor) -> Cache:
    _, block_size, _, kv_heads, head_dim = cache.shape
    return Cache(block_size, kv_heads, head_dim)
