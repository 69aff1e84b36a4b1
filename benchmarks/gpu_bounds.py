"""How far a mixture of experts may be from what it is in float64, by the roundings that it makes.

A kernel multiplies and sums in float32, and rounds to the model's format what is to be gated, what was gated, what an
expert says, and their sum. With u the unit of that format, v that of float32, and e the error of n products that are
summed in any order, e(n) = (n + 1) v / (1 - (n + 1) v) of the sum of their magnitudes (Higham 2002, "Accuracy and
Stability of Numerical Algorithms", section 3.1), for each number

- to be gated: e(width) of the magnitudes, and u of the number;
- gated, a(g) h: what the errors of g and h make of it, as |a'| <= 1.13 for SiLU and GELU, and u of it;
- that an expert says: the errors of what was gated, times weights; e(inner) of the magnitudes; and u of the number.

Weights here have signs like coins, which the errors before them know nothing of; so with them the errors add up to no
more than LIKELY times the root of the sum of their squares, but once in 4e13 (Hoeffding 1963). All else is added up.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch.nn import functional

from engine.kernels.packing import Packed, dequantize
from engine.kernels.products import Activation

LIKELY = 8.0
SLOPE = 1.13
"""The steepest that SiLU (1.10) and GELU (1.13) are."""
SUMMED = 2.0**-23
"""The unit of a sum in float32: an accelerator's may cut off what another rounds."""
FEW = 8
"""Operations of a gate in float32, each of some units."""


def unit(dtype: torch.dtype) -> float:
    """The largest part of a number that is lost as it is stored; Triton's interpreter cuts off what others round."""
    return torch.finfo(dtype).eps / (1 if os.environ.get("TRITON_INTERPRET") == "1" else 2)


def sum_error(count: int) -> float:
    """Of a sum of so many products, as a part of the sum of their magnitudes."""
    lost = (count + 1) * SUMMED
    return lost / (1 - lost)


def mixture(
    x: Tensor, gate_up: Packed, down: Packed, shares: Tensor, choices: Tensor, activation: Activation
) -> tuple[Tensor, Tensor]:
    """Compute in float64 what `engine.kernels.gpu.experts.mix` does, and how far that may be off; both like `x`."""
    wide, first, second = x.double(), dequantize(gate_up).double(), dequantize(down).double()
    out, far = (torch.zeros(x.shape, dtype=torch.float64, device=x.device) for _ in range(2))
    for expert in choices.unique().tolist():
        if expert < 0:
            continue
        tokens, places = (choices == expert).nonzero(as_tuple=True)
        said, off = _expert(wide[tokens], first[expert], second[expert], activation, unit(x.dtype))
        share = shares[tokens, places, None].double()
        out.index_add_(0, tokens, said * share)
        summed = sum_error(choices.shape[1]) * (said.abs() + off)
        far.index_add_(0, tokens, (off + summed) * share)
    return out, far + unit(x.dtype) * (out.abs() + far)


def _expert(x: Tensor, first: Tensor, second: Tensor, activation: Activation, lost: float) -> tuple[Tensor, Tensor]:
    """Say what an expert says, and how far that may be off."""
    wide = x @ first.T
    off = sum_error(x.shape[-1]) * (x.abs() @ first.abs().T)
    off += lost * (wide.abs() + off)
    (gate, up), (gate_off, up_off) = wide.chunk(2, -1), off.chunk(2, -1)
    bent = functional.silu(gate) if activation == "silu" else functional.gelu(gate, approximate="tanh")
    bent_off = SLOPE * gate_off
    gated = bent * up
    off = bent.abs() * up_off + bent_off * (up.abs() + up_off)
    off += (lost + FEW * SUMMED) * (gated.abs() + off)
    said = gated @ second.T
    far = LIKELY * (off.square() @ second.square().T).sqrt()
    far += sum_error(gated.shape[-1]) * ((gated.abs() + off) @ second.abs().T)
    return said, far + lost * (said.abs() + far)
