"""Products with packed weights, experts and adapters in Triton's interpreter, beside plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from engine.kernels.mixing import adapt, mix, route
from engine.kernels.packing import Format, Packed, dequantize, pack_int4, packed_linear, plain, quantize, unpack_int4
from tests.engine.kernels.conftest import random

pytest.importorskip("triton", reason="the extra 'gpu' is not installed")

from engine.kernels.gpu import experts, lora
from engine.kernels.gpu.few import FewRows
from engine.kernels.gpu.grouped import align
from engine.kernels.gpu.quantized import Tiling, linear

FORMATS: list[tuple[Format, int | None]] = [
    ("plain", None),
    ("int8", None),
    ("int8", 32),
    ("fp8", None),
    ("fp8", 64),
    ("int4", None),
    ("int4", 32),
    ("int4", 64),
]


@pytest.mark.parametrize("width", [1, 31, 32, 50, 96])
def test_int4_entries_are_unpacked_as_they_were_packed(width: int) -> None:
    entries = torch.randint(0, 16, (3, width), dtype=torch.uint8)
    packed = pack_int4(entries)
    assert packed.shape == (3, 16 * -(-width // 32))
    assert torch.equal(unpack_int4(packed, width), entries)


@pytest.mark.parametrize(("form", "worst"), [("int8", 1 / 250), ("fp8", 1 / 14), ("int4", 1 / 13)])
@pytest.mark.parametrize("group", [None, 32])
def test_rounding_is_no_worse_than_half_a_step_of_a_group(form: Format, worst: float, group: int | None) -> None:
    weight = random(7, 80)
    found = dequantize(quantize(weight, form, group))
    largest = weight.abs().amax(-1, keepdim=True)
    assert ((found - weight).abs() <= worst * largest).all()


def test_a_weight_of_no_such_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32 entries, not 20"):
        quantize(random(2, 60), "int8", 20)
    with pytest.raises(ValueError, match="has no scales"):
        replace(plain(random(2, 60)), scales=random(2, 1))


@pytest.mark.parametrize(("form", "group"), FORMATS)
@pytest.mark.parametrize(("rows", "out", "width"), [(1, 70, 200), (5, 3, 45), (70, 130, 64)])
def test_a_product_equals_the_one_with_the_weight_that_is_meant(
    form: Format, group: int | None, rows: int, out: int, width: int
) -> None:
    x, weight, bias = random(rows, width), quantize(random(out, width), form, group), random(out)
    torch.testing.assert_close(linear(x, weight, bias), packed_linear(x, weight, bias), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(linear(x, weight), packed_linear(x, weight), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("group", [32, None])
def test_int4_may_have_zero_points_of_its_own(group: int | None) -> None:
    weight = quantize(random(20, 96), "int4", group)
    assert weight.scales is not None
    weight = replace(weight, zeros=torch.randint(0, 16, weight.scales.shape).float())
    x = random(3, 96)
    torch.testing.assert_close(linear(x, weight), packed_linear(x, weight), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("form", "group"), [("plain", None), ("int8", None), ("fp8", 32), ("int4", 32)])
def test_products_in_half_precision_stay_close(dtype: torch.dtype, form: Format, group: int | None) -> None:
    x, weight = random(3, 96).to(dtype), random(20, 96).to(dtype)
    packed = quantize(weight, form, group)
    torch.testing.assert_close(linear(x, packed), packed_linear(x, packed), rtol=2e-2, atol=4e-2)
    wide = linear(x, packed, dtype=torch.float32)
    torch.testing.assert_close(wide, packed_linear(x.float(), packed), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("form", "group"), [("plain", None), ("int4", 32)])
def test_under_one_tiling_a_row_gets_the_same_bits_whoever_is_beside_it(form: Format, group: int | None) -> None:
    x, weight, tiling = random(300, 96), quantize(random(50, 96), form, group), Tiling(64, 32, 32, parts=2)
    together = linear(x, weight, tiling=tiling)  # rows enough for a program to sum up all parts
    for first, count in ((0, 1), (13, 5), (100, 99)):
        assert torch.equal(linear(x[first : first + count], weight, tiling=tiling), together[first : first + count])


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("total", [0, 1, 5, 70])
def test_rows_are_sorted_by_choice_in_whole_tiles_and_keep_their_order(total: int, count: int) -> None:
    choices = torch.randint(-1, count, (total,), generator=torch.Generator().manual_seed(total))
    aligned = align(choices, count, 4)
    found: dict[int, list[int]] = {}
    for owner, rows in zip(aligned.owners.tolist(), aligned.order.view(-1, 4).tolist(), strict=True):
        held = [row for row in rows if row < total]
        assert bool(held) == (owner >= 0)
        if held:
            found.setdefault(owner, []).extend(held)
    rows = {choice: (choices == choice).nonzero()[:, 0].tolist() for choice in range(count)}
    assert found == {choice: own for choice, own in rows.items() if own}


def stacked(form: Format, group: int | None, *shape: int) -> Packed:
    return quantize(random(*shape), form, group)


@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize(("form", "group"), [("plain", None), ("int8", None), ("int4", 32)])
def test_experts_say_what_they_say_one_by_one(tokens: int, form: Format, group: int | None) -> None:
    x, gate_up, down = random(tokens, 40), stacked(form, group, 5, 44, 40), stacked(form, group, 5, 40, 22)
    shares, choices = route(random(tokens, 5), 3, renormalised=True)
    torch.testing.assert_close(shares.sum(-1), torch.ones(tokens))
    choices[0, 1] = -1  # another device has it
    found = experts.mix(x, gate_up, down, shares, choices, "silu")
    torch.testing.assert_close(found, mix(x, gate_up, down, shares, choices, "silu"), rtol=1e-4, atol=1e-3)


def test_a_token_of_experts_gets_the_same_bits_whoever_is_beside_it() -> None:
    x, gate_up, down = random(9, 40), stacked("plain", None, 5, 44, 40), stacked("plain", None, 5, 40, 22)
    shares, choices = route(random(9, 5), 2, renormalised=False)
    tiling = Tiling(16, 32, 32)
    together = experts.mix(x, gate_up, down, shares, choices, "gelu_tanh", tiling)
    for at in (0, 8):
        one = slice(at, at + 1)
        assert torch.equal(
            experts.mix(x[one], gate_up, down, shares[one], choices[one], "gelu_tanh", tiling)[0], together[at]
        )


@pytest.mark.parametrize("rank", [1, 8, 20])
def test_every_token_adds_what_its_own_adapter_says(rank: int) -> None:
    adapters = torch.tensor([2, -1, 0, 2, 2, 1, -1, 0])
    x, down, up = random(8, 50), random(4, rank, 50), random(4, 30, rank)
    scales, wide = torch.tensor([0.5, 2.0, 1.0, 3.0]), random(8, 70)
    expected = wide.clone()
    expected[:, 20:50] += adapt(x, down, up, scales, adapters)
    aligned = lora.by_adapter(adapters, 4)
    hidden = lora.shrink(x, down, aligned)
    lora.expand(hidden, up, scales, aligned, wide[:, 20:50])
    torch.testing.assert_close(wide, expected, rtol=1e-4, atol=1e-4)
    alone = random(8, 70)[3:4].clone()
    aligned = lora.by_adapter(adapters[3:4], 4)
    lora.expand(lora.shrink(x[3:4], down, aligned), up, scales, aligned, alone[:, 20:50])
    assert torch.equal(alone[0], wide[3])


def test_few_rows_go_the_way_that_was_fastest_for_the_shape_and_many_the_librarys() -> None:
    weight, bias = random(70, 200), random(70)
    tried: list[int] = []
    asked: list[int] = []

    def library(x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return x @ weight.T + bias

    def clock(call: Callable[[], torch.Tensor]) -> float:
        rows = len(call())
        tried.append(rows)
        return 1.0 if rows == 16 else float(len(tried))  # the library comes first, and ties are its own

    few = FewRows(clock)
    product = few.prepare(library, weight, bias, wide=False)
    assert sorted(set(tried)) == [1, 16, 64]
    assert asked == [1, 16, 64]
    for rows in (1, 9, 16, 65):
        x = random(rows, 200)
        torch.testing.assert_close(product(x), x @ weight.T + bias, rtol=1e-4, atol=1e-4)
    assert asked == [1, 16, 64, 1, 9, 16, 65]
    count = len(tried)
    few = FewRows(lambda call: float(-len(tried)) if tried.append(len(call())) is None else 0.0)  # later is faster
    product = few.prepare(library, weight, bias, wide=True)
    again = few.prepare(library, weight, bias, wide=True)
    assert len(tried) > count
    asked.clear()
    x = random(3, 200)
    torch.testing.assert_close(product(x), x @ weight.T + bias, rtol=1e-4, atol=1e-4)
    assert torch.equal(again(x), product(x))
    assert asked == []
