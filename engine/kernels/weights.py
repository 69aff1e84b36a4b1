"""Weights in 8 bits, and what stands to their left: whole numbers, whose products are exact in any order.

Each output of a weight and each token has a step of its own, the largest of its numbers being 127 of them. Dettmers et
al. 2022, "LLM.int8()", arXiv 2208.07339, without its exceptions; Jacob et al. 2018, arXiv 1712.05877.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from engine.kernels.packing import Packed, alike, dequantize, together

Quantization = Literal["none", "int8"]
"""How products with weights are computed: in the model's number format, or in 8 bits on both sides (W8A8)."""

MOST: Final = 127

TOGETHER: Final = 4
"""Inputs that a processor multiplies at once: a weight in 8 bits has a multiple of them."""


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """A weight in 8 bits."""

    numbers: Tensor
    """int8 [out, in]."""
    scales: Tensor
    """float32 [out]: what one step is."""
    dtype: torch.dtype
    """The number format that the model computes in beside it."""

    @classmethod
    def of(cls, weight: Tensor) -> Int8Weight:
        """Round a weight [out, in]."""
        return cls(*in_8_bits(weight), weight.dtype)


Weight = Tensor | Int8Weight | Packed
"""[out, in]."""


def weight_in(quantization: Quantization, weight: Weight) -> Weight:
    """Give a weight the format that is wanted, if its width [., in] allows it."""
    if quantization != "int8" or isinstance(weight, Int8Weight) or weight.shape[1] % TOGETHER:
        return weight
    if isinstance(weight, Packed):
        return Int8Weight(*in_8_bits(dequantize(weight)), weight.dtype)
    return Int8Weight.of(weight)


def unpacked(weight: Weight) -> Tensor | Int8Weight:
    """Give a weight as processors multiply with it: what is in few bits becomes what it means."""
    return dequantize(weight).to(weight.dtype) if isinstance(weight, Packed) else weight


def joined(weights: Sequence[Weight]) -> Weight:
    """Put weights of the same inputs one below the other; of unlike formats what they mean."""
    first = weights[0]
    if len(weights) == 1:
        return first
    narrow = [one for one in weights if isinstance(one, Int8Weight)]
    packed = [one for one in weights if isinstance(one, Packed)]
    if len(narrow) == len(weights):
        numbers, scales = torch.cat([one.numbers for one in narrow]), torch.cat([one.scales for one in narrow])
        return Int8Weight(numbers, scales, narrow[0].dtype)
    if len(packed) == len(weights) and alike(packed):
        return together(packed, torch.cat)
    return torch.cat([whole(one) for one in weights])


def whole(weight: Weight) -> Tensor:
    """Give what a weight means, in the format that the model computes in."""
    if isinstance(weight, Int8Weight):
        return (weight.numbers.float() * weight.scales[:, None]).to(weight.dtype)
    return dequantize(weight).to(weight.dtype) if isinstance(weight, Packed) else weight


def in_8_bits(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round rows [rows, n] to int8 [rows, n] with float32 steps [rows]; what is not finite has a step that is not."""
    wide = x.float()
    largest = wide.abs().amax(dim=-1)
    many = torch.where(largest > 0, MOST / largest, 0.0)
    steps = (wide * many[:, None]).round().nan_to_num(0.0).clamp(-MOST, MOST)
    return steps.to(torch.int8), largest / MOST
