"""How far a mixture of experts is from float64: within what its roundings explain, and that is not wide."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

pytest.importorskip("triton", reason="the extra 'gpu' is not installed")

from benchmarks.gpu_bounds import mixture
from engine.kernels.gpu import experts
from engine.kernels.mixing import route
from engine.kernels.packing import Format, Packed, quantize
from engine.kernels.products import Activation

Asked = tuple[Tensor, Packed, Packed, Tensor, Tensor]


def asked(tokens: int, hidden: int, inner: int, dtype: torch.dtype, form: Format = "plain") -> Asked:
    """Make up tokens that ask three of five experts."""
    own = torch.Generator().manual_seed(tokens + inner)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=own)

    gate_up = quantize((numbers(5, 2 * inner, hidden) / hidden**0.5).to(dtype), form)
    down = quantize((numbers(5, hidden, inner) / inner**0.5).to(dtype), form)
    shares, choices = route(numbers(tokens, 5), 3, renormalised=True)
    return numbers(tokens, hidden).to(dtype), gate_up, down, shares, choices


def how_far(found: Tensor, given: Asked, activation: Activation = "silu") -> float:
    """As a part of how far it may be."""
    expected, bound = mixture(*given, activation)
    return float(((found.double() - expected).abs() / bound).max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("form", ["plain", "int8"])
@pytest.mark.parametrize(("tokens", "hidden", "inner"), [(1, 40, 22), (9, 96, 70), (40, 33, 128)])
def test_experts_are_no_farther_from_float64_than_their_roundings_explain(
    dtype: torch.dtype, activation: Activation, form: Format, tokens: int, hidden: int, inner: int
) -> None:
    given = asked(tokens, hidden, inner, dtype, form)
    assert how_far(experts.mix(*given, activation), given, activation) <= 1


def test_without_what_stands_at_the_end_of_a_row_they_are_farther() -> None:
    x, gate_up, down, shares, choices = asked(9, 96, 70, torch.bfloat16)
    cut_up, cut_down = gate_up.data.clone(), down.data.clone()
    cut_up[..., -1], cut_down[..., -1] = 0, 0
    for first, second in ((replace(gate_up, data=cut_up), down), (gate_up, replace(down, data=cut_down))):
        found = experts.mix(x, first, second, shares, choices, "silu")
        assert how_far(found, (x, gate_up, down, shares, choices)) > 1


def test_sums_in_bfloat16_are_farther(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")  # by what an accelerator loses, which rounds
    x, gate_up, down, shares, choices = asked(8, 64, 1024, torch.bfloat16)
    found = torch.zeros(8, 64)
    for token in range(8):
        for place, expert in enumerate(choices[token].tolist()):
            gate, up = (gate_up.data[expert] @ x[token]).chunk(2)
            gated = functional.silu(gate) * up
            total = torch.zeros(64, dtype=torch.bfloat16)
            for term in (down.data[expert] * gated).T:
                total += term
            found[token] += total.float() * shares[token, place]
    assert how_far(found.bfloat16(), (x, gate_up, down, shares, choices)) > 1
