"""Weights that a checkpoint holds in few bits, as the tools that write such have them: GPTQ, AWQ, compressed-tensors,
and fp8 in blocks. Each is a way from a projection's tensors to a weight of ours.

Frantar et al. 2022, "GPTQ", arXiv 2210.17323; Lin et al. 2023, "AWQ", arXiv 2306.00978; Micikevicius et al. 2022, arXiv
2209.05433, for fp8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from engine.errors import CheckpointError
from engine.kernels.packing import RUN, Format, Packed, pack_int4
from engine.kernels.weights import Int8Weight, Weight

Take = Callable[[str], Tensor | None]
"""Gives a projection's tensor by what its name ends with, in the file's format, and marks it as taken; None if there is
none."""

_WORD: Final = 32
"""Bits of an integer that entries are packed into."""
_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns lies where in an integer, from the lowest bits on."""


class Scheme(Protocol):
    """How the projections of a checkpoint are packed."""

    @property
    def sign(self) -> str:
        """The tensor by whose name's end it is seen that a projection is packed."""

    def weight(self, take: Take, out: int, width: int, dtype: torch.dtype) -> Weight:
        """Give a projection's weight, beside which the model computes in `dtype`.

        Raises:
            ValueError: What there is does not fit, and why.
        """


@dataclass(frozen=True, slots=True)
class _Gptq:
    """Entries packed along the inputs; groups may have their inputs anywhere."""

    bits: int
    group: int
    offset: int
    """What was subtracted from zero points when they were written."""
    symmetric: bool
    """Whether all zero points are the middle; then what was subtracted is seen by what there is."""
    sign: str = "qweight"

    def weight(self, take: Take, out: int, width: int, dtype: torch.dtype) -> Weight:
        """As `Scheme` says."""
        entries = _unpacked(_needed(take, "qweight").T, self.bits)  # [out, in]
        scales = _needed(take, "scales").float().T  # [out, groups]
        zeros = self._zeros(_unpacked(_needed(take, "qzeros"), self.bits).T.to(torch.int32))
        where = take("g_idx")
        _check(entries, out, width)
        _check(zeros, *scales.shape)
        group = self.group if self.group > 0 else width
        in_order = where is None or torch.equal(where.long(), torch.arange(width) // group)
        if in_order:
            return _grouped(entries, scales, zeros, (self.bits, group), dtype)
        assert where is not None
        places = where.long()
        if places.shape != (width,) or not 0 <= int(places.min()) <= int(places.max()) < scales.shape[1]:
            raise ValueError("its 'g_idx' names groups that there are not")
        return ((entries.float() - zeros[:, places]) * scales[:, places]).to(dtype)

    def _zeros(self, stored: Tensor) -> Tensor:
        """Give zero points, float32, of those that are stored."""
        middle = 1 << (self.bits - 1)
        if self.symmetric and any(bool((stored == middle - offset).all()) for offset in (0, 1)):
            return torch.full(stored.shape, float(middle))  # some tools write the second way, and say the first
        if self.symmetric:
            raise ValueError("`sym` is true, and its zero points are not all the middle")
        return (stored + self.offset & (1 << self.bits) - 1).float()


@dataclass(frozen=True, slots=True)
class _Awq:
    """Entries packed along the outputs, in an order of their own."""

    group: int
    sign: str = "qweight"

    def weight(self, take: Take, out: int, width: int, dtype: torch.dtype) -> Weight:
        """As `Scheme` says."""
        entries = _in_order(_unpacked(_needed(take, "qweight"), 4)).T
        zeros = _in_order(_unpacked(_needed(take, "qzeros"), 4)).T.float()
        scales = _needed(take, "scales").float().T
        _check(entries, out, width)
        _check(zeros, *scales.shape)
        return _grouped(entries, scales, zeros, (4, self.group if self.group > 0 else width), dtype)


@dataclass(frozen=True, slots=True)
class _PackedInt4:
    """compressed-tensors' `pack-quantized`: entries packed along the inputs, symmetric."""

    group: int
    sign: str = "weight_packed"

    def weight(self, take: Take, out: int, width: int, dtype: torch.dtype) -> Weight:
        """As `Scheme` says."""
        entries = _unpacked(_needed(take, "weight_packed"), 4)[:, :width]
        take("weight_shape")
        if take("weight_zero_point") is not None or take("weight_g_idx") is not None:
            raise ValueError("it has zero points or an order of inputs, which are not served of this format")
        scales = _needed(take, "weight_scale").float()
        _check(entries, out, width)
        group = self.group if self.group > 0 else width
        return _grouped(entries, scales, torch.full_like(scales, 8.0), (4, group), dtype)


@dataclass(frozen=True, slots=True)
class _Int8:
    """compressed-tensors' `int-quantized`: 8 bits on both sides, a step for each output."""

    sign: str = "weight_scale"

    def weight(self, take: Take, out: int, width: int, dtype: torch.dtype) -> Weight:
        """As `Scheme` says."""
        numbers, scales = _needed(take, "weight"), _needed(take, "weight_scale").float().flatten()
        _check_numbers(numbers, torch.int8, out, width)
        if take("weight_zero_point") is not None:
            raise ValueError("it has zero points, which are not served in 8 bits")
        if scales.numel() not in {1, out}:
            raise ValueError(f"it has {scales.numel()} steps for {out} outputs")
        return Int8Weight(numbers, scales.expand(out).contiguous(), dtype)


@dataclass(frozen=True, slots=True)
class _Fp8:
    """fp8 with a scale for all, for each output, or for each block."""

    sign: str
    block: tuple[int, int] | None = None

    def weight(self, take: Take, out: int, width: int, dtype: torch.dtype) -> Weight:
        """As `Scheme` says."""
        numbers, scales = _needed(take, "weight"), _needed(take, self.sign).float()
        take("input_scale")  # what stands to the left is not rounded
        _check_numbers(numbers, torch.float8_e4m3fn, out, width)
        group = width
        if self.block is None:
            scales = scales.reshape(-1, 1).expand(out, 1) if scales.numel() == 1 else scales.reshape(len(scales), -1)
            _check(scales, out, 1)
        else:
            high, group = self.block
            _check(scales, -(-out // high), -(-width // group))
            scales = scales.repeat_interleave(high, dim=0)[:out]
            group = group if group < width else width
        return Packed("fp8", numbers.contiguous(), scales.contiguous(), None, width, group, dtype)


def read_scheme(folder: Path, raw: Mapping[str, Any]) -> Scheme | None:
    """Say how a checkpoint's projections are packed, by the `quantization_config` of its config.json; None if plain.

    Raises:
        CheckpointError: It is a way that we cannot read, and which field says so.
    """
    wanted = raw.get("quantization_config")
    if wanted is None:
        return None
    try:
        return _SCHEMES[wanted["quant_method"]](wanted)
    except KeyError as error:
        known = ", ".join(_SCHEMES)
        problem = f"`quantization_config`: `quant_method` is {wanted.get('quant_method')!r}, and {known} can be served"
        if wanted.get("quant_method") in _SCHEMES:
            problem = f"`quantization_config` lacks {error.args[0]!r}"
        raise CheckpointError(folder / "config.json", problem) from error
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(folder / "config.json", f"`quantization_config`: {error}") from error


def _gptq(wanted: Mapping[str, Any]) -> Scheme:
    bits = int(wanted["bits"])
    if bits not in {4, 8}:
        raise ValueError(f"`bits` is {bits}, and 4 and 8 can be served")
    offset = 0 if wanted.get("checkpoint_format") == "gptq_v2" else 1
    return _Gptq(bits, int(wanted["group_size"]), offset, bool(wanted.get("sym")))


def _awq(wanted: Mapping[str, Any]) -> Scheme:
    bits, version = int(wanted["bits"]), str(wanted.get("version", "gemm")).lower()
    if bits != 4 or version != "gemm":
        raise ValueError(f"`bits` is {bits} and `version` {version!r}, and 4 and 'gemm' can be served")
    return _Awq(int(wanted.get("group_size", wanted.get("q_group_size", 128))))


def _compressed(wanted: Mapping[str, Any]) -> Scheme:
    groups = list(wanted["config_groups"].values())
    weights = groups[0]["weights"]
    if any(group["weights"] != weights for group in groups):
        raise ValueError("its `config_groups` differ, and one way for all projections can be served")
    form, bits, kind = wanted.get("format"), int(weights["num_bits"]), weights.get("type", "int")
    if not weights.get("symmetric", True):
        raise ValueError("`weights.symmetric` is false, and symmetric weights can be served")
    if form == "pack-quantized" and bits == 4:
        return _PackedInt4(int(weights.get("group_size") or 0))
    strategy = weights.get("strategy", "channel")
    if strategy not in {"channel", "tensor", "block"}:
        raise ValueError(f"`weights.strategy` is {strategy!r}, and channel, tensor and block can be served here")
    if form == "int-quantized" and bits == 8 and strategy != "block":
        return _Int8()
    if (form, bits, kind) in {("float-quantized", 8, "float"), ("naive-quantized", 8, "float")}:
        return _Fp8("weight_scale", None if strategy != "block" else _block(weights["block_structure"]))
    raise ValueError(f"`format` {form!r} with {bits} bits of {kind!r} cannot be served")


def _fp8(wanted: Mapping[str, Any]) -> Scheme:
    block = wanted.get("weight_block_size")
    if block is None:
        return _Fp8("weight_scale")
    return _Fp8("weight_scale_inv", _block(block))


def _block(said: Any) -> tuple[int, int]:
    """Read how many outputs and inputs share a scale."""
    if not isinstance(said, list) or len(said) != 2 or not all(isinstance(size, int) and size > 0 for size in said):
        raise ValueError(f"{said!r} is no block of outputs and inputs")
    return said[0], said[1]


_SCHEMES: Final[Mapping[str, Callable[[Mapping[str, Any]], Scheme]]] = {
    "gptq": _gptq,
    "awq": _awq,
    "compressed-tensors": _compressed,
    "fp8": _fp8,
}


def _needed(take: Take, ending: str) -> Tensor:
    found = take(ending)
    if found is None:
        raise ValueError(f"it has no {ending!r}")
    return found


def _check(tensor: Tensor, rows: int, columns: int) -> None:
    if tensor.shape != (rows, columns):
        raise ValueError(f"what is packed is {list(tensor.shape)}, and config.json makes it {[rows, columns]}")


def _check_numbers(numbers: Tensor, dtype: torch.dtype, rows: int, columns: int) -> None:
    if numbers.dtype != dtype:
        raise ValueError(f"its numbers are {numbers.dtype}, not {dtype}")
    _check(numbers, rows, columns)


def _unpacked(words: Tensor, bits: int) -> Tensor:
    """int32 [rows, n] -> uint8 [rows, n * 32 / bits], from the lowest bits on."""
    shifts = torch.arange(0, _WORD, bits, dtype=torch.int32)
    parts = words.contiguous()[:, :, None] >> shifts & (1 << bits) - 1
    return parts.to(torch.uint8).flatten(1)


def _in_order(entries: Tensor) -> Tensor:
    """Put columns back that were packed in AWQ's order."""
    back = torch.tensor(_AWQ_ORDER).argsort()
    return entries.reshape(len(entries), -1, len(_AWQ_ORDER))[:, :, back].flatten(1)


def _grouped(entries: Tensor, scales: Tensor, zeros: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Weight:
    """Pack uint8 [out, width] in groups of inputs, or give it whole where our kernels have no such format.

    Args:
        entries: From 0 on.
        scales: float32 [out, groups].
        zeros: The same: what is subtracted from entries.
        shape: (bits of an entry, inputs of a group).
        dtype: What the model computes in.
    """
    (bits, group), width = shape, entries.shape[1]
    _check(scales, len(entries), -(-width // group))
    fits = group % RUN == 0 or group >= width
    middle = 1 << (bits - 1)
    centred = bool((zeros == middle).all())
    if fits and (bits == 4 or centred):
        data = pack_int4(entries) if bits == 4 else (entries.to(torch.int16) - middle).to(torch.int8)
        form: Format = "int4" if bits == 4 else "int8"
        shift = None if centred else zeros.contiguous()
        return Packed(form, data.contiguous(), scales.contiguous(), shift, width, min(group, width), dtype)
    spread = torch.arange(width) // group
    return ((entries.float() - zeros[:, spread]) * scales[:, spread]).to(dtype)


def placed(weight: Weight, device: torch.device) -> Weight:
    """Move a weight to a device."""
    if isinstance(weight, Tensor):
        return weight.to(device)
    if isinstance(weight, Int8Weight):
        return Int8Weight(weight.numbers.to(device), weight.scales.to(device), weight.dtype)
    return weight.to(device)
