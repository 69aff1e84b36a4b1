"""Which way a product goes that is gated, and which experts a token asks, in Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine.kernels import mixing
from engine.kernels.packing import Format, Packed, packed_linear, quantize
from engine.kernels.products import Activation
from engine.kernels.reference import ReferenceOps
from tests.engine.kernels.conftest import random

pytest.importorskip("triton", reason="the extra 'gpu' is not installed")

from engine.kernels.gpu import ops
from engine.kernels.gpu.few import CLASSES, FewRows, candidates_gated
from engine.kernels.gpu.gated import linear_gated
from engine.kernels.gpu.ops import TritonOps
from engine.kernels.gpu.quantized import Tiling
from engine.kernels.gpu.routing import route
from engine.kernels.packing import plain


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize(("form", "group"), [("plain", None), ("int8", 32), ("int4", 32)])
@pytest.mark.parametrize(("rows", "half", "width"), [(1, 35, 200), (17, 3, 45), (5, 16, 64)])
def test_a_product_is_gated_as_it_is_made(
    activation: Activation, form: Format, group: int | None, rows: int, half: int, width: int
) -> None:
    x, weight = random(rows, width), quantize(random(2 * half, width) / 8, form, group)
    expected = ReferenceOps()._gate(activation)(packed_linear(x, weight))
    found = linear_gated(x, weight, activation, Tiling(32, 16, 32))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_few_rows_are_gated_the_way_that_was_fastest_and_many_by_the_library() -> None:
    weight, tried = random(70, 200), list[int]()

    def later_is_faster(call: object) -> float:
        assert callable(call)
        tried.append(len(call()))
        return float(-len(tried))

    product = TritonOps(FewRows(later_is_faster)).gated(weight, None, "silu")
    expected = ReferenceOps().gated(weight, None, "silu")
    listed = sum(len(candidates_gated(rows, plain(weight))) + 1 for rows in CLASSES)
    assert tried[-listed:].count(1) == len(candidates_gated(1, plain(weight))) + 1
    for rows in (1, 16, 65):
        x = random(rows, 200)
        torch.testing.assert_close(product(x), expected(x), rtol=1e-4, atol=1e-4)


def routed(logits: Tensor, chosen: int) -> tuple[Tensor, Tensor]:
    return route(logits, chosen, renormalised=True)


@pytest.mark.parametrize(("experts", "chosen"), [(1, 1), (5, 2), (128, 8), (60, 60)])
@pytest.mark.parametrize("renormalised", [True, False])
def test_experts_are_chosen_as_by_pytorch(experts: int, chosen: int, renormalised: bool) -> None:
    logits = random(7, experts)
    shares, choices = route(logits, chosen, renormalised=renormalised)
    expected = mixing.route(logits, chosen, renormalised=renormalised)
    torch.testing.assert_close(shares, expected[0])
    assert torch.equal(choices, expected[1])
    alone = route(logits[3:4], chosen, renormalised=renormalised)
    assert torch.equal(alone[0][0], shares[3])


def test_of_equal_experts_the_lower_ones_are_chosen() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0, 3.0, 2.0]] * 2, dtype=torch.bfloat16)
    shares, choices = routed(logits, 4)
    assert choices.tolist() == [[1, 3, 4, 2]] * 2
    assert shares[0, 0] == shares[0, 1] == shares[0, 2] > shares[0, 3]


def test_a_token_whose_logits_are_no_numbers_asks_experts_that_there_are_and_its_shares_tell() -> None:
    logits = random(3, 6)
    logits[0, 2], logits[1] = torch.nan, torch.nan
    shares, choices = routed(logits, 3)
    assert shares[:2].isnan().all()
    assert shares[2].isfinite().all()
    for own in choices.tolist():
        assert len({expert for expert in own if 0 <= expert < 6}) == 3
    few = torch.full((1, 6), float("-inf"))
    few[0, 4] = 1.0  # fewer than are asked for have a share
    shares, choices = routed(few, 3)
    assert choices.tolist() == [[4, 0, 1]]
    assert shares.tolist() == [[1.0, 0.0, 0.0]]


def test_where_kernels_cannot_open_fp8_a_weight_is_opened_as_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = quantize(random(20, 96), "fp8", 32), random(5, 96)
    both = [[quantize(random(*shape), "fp8") for _ in range(3)] for shape in ((44, 40), (40, 22))]
    given = (random(2, 40), torch.full((2, 1), 0.5), torch.tensor([[2], [0]]))
    expected, formats, real = TritonOps().experts(*both, "silu")(*given), list[str](), ops.mix

    def noted(x: Tensor, *others: Any) -> Tensor:
        formats.append(others[0].format)
        return real(x, *others)

    monkeypatch.setattr(Packed, "device", torch.device("cuda", 1))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: {1: (8, 0)}[device.index])
    monkeypatch.setattr(ops, "linear", None)  # no kernel is to be asked
    monkeypatch.setattr(ops, "mix", noted)
    torch.testing.assert_close(TritonOps().linear(weight, None)(x), packed_linear(x, weight), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(TritonOps().experts(*both, "silu")(*given), expected, rtol=1e-4, atol=1e-4)
    assert formats == ["plain"]
