"""Weights in few bits: how they are laid out, how they are made, and the product with them in plain PyTorch.

A row of a weight is cut into groups of entries that share a scale, and may share a zero point; one group that is the
whole row is a scale per channel. Int4: two entries to a byte, in runs of 32: the low halves of 16 bytes are the first
16 entries, the high halves the next, so that a kernel reads each half of a run as it lies (Frantar et al. 2022,
"GPTQ", arXiv 2210.17323, for grouped weights; Micikevicius et al. 2022, arXiv 2209.05433, for fp8 E4M3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

Format = Literal["plain", "int8", "fp8", "int4"]

RUN: Final = 32
"""Entries of an int4 row that are packed together."""

_MIDDLE: Final = 8
"""The zero point of int4 where none is given."""

_LARGEST: Final = {"int8": 127.0, "fp8": 448.0, "int4": 7.0}


@dataclass(frozen=True, slots=True)
class Packed:
    """A weight [..., out, width], or several stacked, as kernels take it."""

    format: Format
    data: Tensor
    """[..., out, width] in int8, float8_e4m3fn or a floating format; int4 uint8 [..., out, whole runs of width / 2]."""
    scales: Tensor | None
    """float32 [..., out, groups]; None for a plain weight."""
    zeros: Tensor | None
    """float32 [..., out, groups]: what is subtracted from int4 entries before they are scaled; 8 where it is None."""
    width: int
    group: int
    """Entries that share a scale: `width`, or a multiple of 32."""
    dtype: torch.dtype = torch.float32
    """The number format that the model computes in beside it."""

    @property
    def out(self) -> int:
        """Rows."""
        return self.data.shape[-2]

    @property
    def shape(self) -> tuple[int, int]:
        """[out, width] of what is meant."""
        return self.out, self.width

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.data.device

    def to(self, device: torch.device) -> Packed:
        """Move it."""
        scales, zeros = (None if part is None else part.to(device) for part in (self.scales, self.zeros))
        return replace(self, data=self.data.to(device), scales=scales, zeros=zeros)

    def __post_init__(self) -> None:
        if self.group != self.width and self.group % RUN:
            raise ValueError(f"a group is the whole row or a multiple of {RUN} entries, not {self.group}")
        if (self.scales is None) != (self.format == "plain"):
            raise ValueError("a plain weight has no scales, and every other has")


def plain(weight: Tensor) -> Packed:
    """Take a weight as it is."""
    return Packed("plain", weight.contiguous(), None, None, weight.shape[-1], weight.shape[-1])


def quantize(weight: Tensor, form: Format, group: int | None = None) -> Packed:
    """Round [..., out, width] to few bits, symmetrically, by the largest entry of each group; of the row if `None`."""
    if form == "plain":
        return plain(weight)
    width = weight.shape[-1]
    group = group or width
    wide = _cut(functional.pad(weight.float(), (0, -width % group)), group)
    scales = wide.abs().amax(-1).clamp_(min=1e-12) / _LARGEST[form]
    scaled = (wide / scales[..., None]).flatten(-2)[..., :width]
    if form == "fp8":
        data = scaled.to(torch.float8_e4m3fn)
    elif form == "int8":
        data = scaled.round().to(torch.int8)
    else:
        data = pack_int4((scaled.round() + _MIDDLE).to(torch.uint8))
    return Packed(form, data.contiguous(), scales, None, width, group)


def alike(weights: Sequence[Packed]) -> bool:
    """Say whether weights have one format, and can be made one."""
    return len({(one.format, one.group, one.width, one.zeros is None) for one in weights}) == 1


def together(weights: Sequence[Packed], put: Callable[[list[Tensor]], Tensor]) -> Packed:
    """Make one of several of one format: `put` is `torch.cat` for more outputs, or `torch.stack`."""
    first = weights[0]
    scales = None if first.scales is None else put([one.scales for one in weights if one.scales is not None])
    zeros = None if first.zeros is None else put([one.zeros for one in weights if one.zeros is not None])
    return replace(first, data=put([one.data for one in weights]), scales=scales, zeros=zeros)


def pack_int4(entries: Tensor) -> Tensor:
    """uint8 [..., width] of 0 to 15 -> [..., width in whole runs / 2]."""
    halves = _cut(functional.pad(entries, (0, -entries.shape[-1] % RUN)), RUN // 2)
    return (halves[..., ::2, :] | halves[..., 1::2, :] << 4).flatten(-2)


def unpack_int4(data: Tensor, width: int) -> Tensor:
    """Undo `pack_int4`."""
    halves = _cut(data, RUN // 2)
    return torch.stack((halves & 15, halves >> 4), dim=-2).flatten(-3)[..., :width]


def _cut(numbers: Tensor, size: int) -> Tensor:
    """[..., n] -> [..., n / size, size]."""
    return numbers.reshape(*numbers.shape[:-1], -1, size)


def dequantize(weight: Packed) -> Tensor:
    """Give the weight that is meant, float32 [..., out, width]."""
    if weight.scales is None:
        return weight.data.float()

    def spread(numbers: Tensor) -> Tensor:
        return numbers.repeat_interleave(weight.group, dim=-1)[..., : weight.width]

    if weight.format == "int4":
        entries = unpack_int4(weight.data, weight.width).float()
        entries = entries - (_MIDDLE if weight.zeros is None else spread(weight.zeros))
    else:
        entries = weight.data.float()
    return entries * spread(weight.scales)


def packed_linear(x: Tensor, weight: Packed, bias: Tensor | None = None) -> Tensor:
    """Multiply [tokens, width] by the transposed weight [out, width], in float32; -> [tokens, out] as `x`."""
    return functional.linear(x.float(), dequantize(weight), None if bias is None else bias.float()).to(x.dtype)
