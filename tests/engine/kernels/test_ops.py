"""Every implementation of the ops against dense definitions written out here, on odd shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.errors import PlatformUnavailable
from engine.kernels.batch import PagedBatch
from engine.kernels.ops import Ops, load_ops
from engine.kernels.weights import Int8Weight
from tests.engine.kernels.conftest import BLOCKS, lay_out, random

SCALE = 0.3


@pytest.fixture(params=["reference", "gathered", "cpu", "native", "triton"])
def ops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ops:
    if request.param == "triton":
        # must be set before the kernels are defined; then they run on the processor
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        pytest.importorskip("triton", reason="the extra 'gpu' is not installed")
    return loaded(request.param)


def loaded(name: str) -> Ops:
    try:
        return load_ops(name)
    except PlatformUnavailable as error:
        pytest.skip(str(error))


def dense_attention(
    query: Tensor, cache: Tensor, batch: PagedBatch, window: int | None = None, cap: float | None = None
) -> Tensor:
    """Attend one query of one head at a time, over keys picked slot by slot."""
    out = torch.zeros_like(query)
    row = 0
    for table, count, length in zip(batch.tables, batch.counts.tolist(), batch.lengths.tolist(), strict=True):
        entries = [cache[table[at // batch.block_size], at % batch.block_size] for at in range(length)]
        for position in range(length - count, length):
            first = 0 if window is None else max(0, position + 1 - window)
            seen = torch.stack(entries[first : position + 1])  # [seen, 2, kv_heads, head_dim]
            for head in range(query.shape[1]):
                shared = head // (query.shape[1] // cache.shape[3])
                scores = (seen[:, 0, shared] @ query[row, head]) * SCALE
                if cap is not None:
                    scores = (scores / cap).tanh() * cap
                out[row, head] = scores.softmax(0) @ seen[:, 1, shared]
            row += 1
    return out


@pytest.mark.parametrize(
    "requests",
    [
        pytest.param([(1, 1)], id="one first token"),
        pytest.param([(1, 1), (1, 4), (1, 5), (1, 33)], id="single tokens of unlike lengths"),
        pytest.param([(7, 7)], id="a whole prompt"),
        pytest.param([(5, 12)], id="a later chunk"),
        pytest.param([(1, 3), (1, 17), (2, 2), (9, 31), (3, 16)], id="all mixed"),
    ],
)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(1, 1, 4), (6, 2, 10), (3, 3, 8), (5, 1, 6)])
@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_paged_attention_equals_dense_attention(
    ops: Ops, requests: list[tuple[int, int]], heads: int, kv_heads: int, head_dim: int, block_size: int
) -> None:
    if sum(-(-length // block_size) for _, length in requests) > BLOCKS:
        requests = requests[:2]
    batch = lay_out(requests, block_size)
    query = random(int(batch.counts.sum()), heads, head_dim)
    cache = random(BLOCKS, block_size, 2, kv_heads, head_dim)
    out = ops.attention(batch, SCALE)(query, cache)
    torch.testing.assert_close(out, dense_attention(query, cache, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("requests", [[(1, 1), (1, 4), (1, 8), (1, 33), (1, 50)], [(1, 40), (2, 2), (9, 31), (30, 37)]])
@pytest.mark.parametrize("window", [None, 1, 3, 8, 16, 100])
@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("block_size", [4, 16])
def test_attention_looks_no_further_back_than_its_window_and_keeps_scores_below_its_cap(
    ops: Ops, requests: list[tuple[int, int]], window: int | None, cap: float | None, block_size: int
) -> None:
    batch = lay_out(requests, block_size)
    query = random(int(batch.counts.sum()), 6, 10)
    cache = random(BLOCKS, block_size, 2, 2, 10)
    out = ops.attention(batch, SCALE, window, cap)(query, cache)
    torch.testing.assert_close(out, dense_attention(query, cache, batch, window, cap), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [None, 7, 16])
@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("name", ["gathered", "cpu"])
def test_a_single_token_attends_to_the_same_bits_whoever_is_beside_it(
    name: str, window: int | None, cap: float | None
) -> None:
    lengths = [1, 3, 9, 17, 18, 30, 31]
    together = lay_out([(1, length) for length in lengths], 4)
    query, cache = random(len(lengths), 6, 10), random(BLOCKS, 4, 2, 2, 10)
    attend = load_ops(name).attention
    whole = attend(together, SCALE, window, cap)(query, cache)
    for i, length in enumerate(lengths):
        alone = PagedBatch(together.slots[i : i + 1], together.tables[i : i + 1], np.array([1]), np.array([length]), 4)
        assert torch.equal(attend(alone, SCALE, window, cap)(query[i : i + 1], cache)[0], whole[i])


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("cap", [None, 0.7])
def test_blocks_before_the_window_are_not_needed(ops: Ops, window: int | None, cap: float | None) -> None:
    batch = lay_out([(1, 33), (5, 40)], 4)
    query, cache = random(6, 6, 10), random(BLOCKS, 4, 2, 2, 10)
    expected = ops.attention(batch, SCALE, window, cap)(query, cache)
    for row, first in enumerate((33, 36)):  # the first token that has a window
        passed = 0 if window is None else (first - window) // 4
        batch.tables[row, :passed] = batch.tables[1 - row, -1]
    assert torch.equal(ops.attention(batch, SCALE, window, cap)(query, cache), expected)


def test_groups_of_layers_share_a_cache_each_through_its_own_table(ops: Ops) -> None:
    requests = [(1, 17), (1, 23), (5, 12)]
    both = lay_out(requests * 2, 4)
    full, near = (
        PagedBatch(both.slots[tokens], both.tables[rows].contiguous(), both.counts[rows], both.lengths[rows], 4)
        for tokens, rows in ((slice(7), slice(3)), (slice(7, 14), slice(3, 6)))
    )
    key, value, query, cache = random(7, 2, 10), random(7, 2, 10) + 1, random(7, 6, 10), random(BLOCKS, 4, 2, 2, 10)
    ops.write_kv(key, value, cache, full.slots)
    expected = dense_attention(query, cache, full)
    ops.write_kv(value, key, cache, near.slots)
    torch.testing.assert_close(ops.attention(full, SCALE)(query, cache), expected, rtol=1e-5, atol=1e-5)
    seen = dense_attention(query, cache, near, 7)
    torch.testing.assert_close(ops.attention(near, SCALE, 7)(query, cache), seen, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_keys_and_values_are_written_to_their_slots_and_nowhere_else(ops: Ops, block_size: int) -> None:
    batch = lay_out([(1, 6), (5, 9)], block_size)
    key, value = random(6, 3, 5), random(6, 3, 5) + 1
    cache = torch.full((BLOCKS, block_size, 2, 3, 5), 7.0)
    ops.write_kv(key, value, cache, batch.slots)
    expected = torch.full((BLOCKS * block_size, 2, 3, 5), 7.0)
    for row, slot in enumerate(batch.slots.tolist()):
        expected[slot, 0], expected[slot, 1] = key[row], value[row]
    assert torch.equal(cache.flatten(0, 1), expected)


@pytest.mark.parametrize("width", [2, 6, 10])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (7, 1)])
def test_queries_and_keys_turn_as_far_as_the_angles_go_and_keys_are_stored_with_values(
    ops: Ops, heads: int, kv_heads: int, width: int
) -> None:
    qkv, angles = random(5, heads + 2 * kv_heads, 10), (random(5, 1, width), random(5, 1, width) + 1)
    qk, value = qkv[:, :-kv_heads], qkv[:, -kv_heads:]
    slots, cache = torch.tensor([7, 3, 19, 4, 0]), torch.full((5, 4, 2, kv_heads, 10), 7.0)
    query = ops.turn_and_store(qk, value, angles, cache, slots)
    turned = torch.cat((ops.rotary(qk[..., :width], *angles), qk[..., width:]), -1)
    torch.testing.assert_close(query, turned[:, :heads])
    expected = torch.full((20, 2, kv_heads, 10), 7.0)
    expected[slots, 0], expected[slots, 1] = turned[:, heads:], value
    torch.testing.assert_close(cache.flatten(0, 1), expected)


@pytest.mark.parametrize("shape", [(1, 7), (5, 96), (3, 4, 10)])
def test_rms_norm_gives_rows_of_unit_root_mean_square_times_the_weight(ops: Ops, shape: tuple[int, ...]) -> None:
    x, weight = random(*shape) * 9, random(*shape[-2:] if len(shape) > 2 else shape[-1:])
    normal = ops.rms_norm(x, weight, 1e-6)
    expected = x / x.pow(2).mean(-1, keepdim=True).add(1e-6).sqrt() * weight
    torch.testing.assert_close(normal, expected)


def test_add_rms_norm_normalises_the_sum_and_returns_it(ops: Ops) -> None:
    x, residual, weight = random(4, 11), random(4, 11) + 2, random(11)
    normal, total = ops.add_rms_norm(x, residual, weight, 1e-5)
    torch.testing.assert_close(total, x + residual)
    torch.testing.assert_close(normal, ops.rms_norm(x + residual, weight, 1e-5))


def test_rotary_turns_each_pair_by_its_angle(ops: Ops) -> None:
    x, angle = random(3, 2, 6), random(3, 3)
    cos, sin = angle.cos(), angle.sin()
    turned = ops.rotary(x, torch.cat((cos, cos), -1)[:, None], torch.cat((-sin, sin), -1)[:, None])
    pairs = torch.complex(x[..., :3], x[..., 3:]) * torch.polar(torch.ones(3, 3), angle)[:, None]
    torch.testing.assert_close(turned, torch.cat((pairs.real, pairs.imag), -1))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("width", [7, 32, 50])
def test_the_first_half_of_a_gated_product_gates_the_second(ops: Ops, with_bias: bool, width: int) -> None:
    x, weight, bias = random(9, 13), random(2 * width, 13), random(2 * width) if with_bias else None
    gate, held = (x @ weight.T + (bias if bias is not None else 0)).chunk(2, -1)
    torch.testing.assert_close(ops.gated(weight, bias, "silu")(x), gate * gate.sigmoid() * held)
    bent = 0.5 * gate * (1 + ((2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)).tanh())
    torch.testing.assert_close(ops.gated(weight, bias, "gelu_tanh")(x), bent * held)


def rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to whole steps, the largest number being 127 of them; return the steps, and how large one is."""
    largest = rows.float().abs().amax(-1, keepdim=True)
    many = torch.where(largest > 0, 127 / largest, 0.0)
    return (rows.float() * many).round(), largest / 127


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("count", "width", "out"), [(1, 4, 1), (2, 36, 33), (7, 100, 96), (13, 64, 161), (64, 20, 31)])
def test_a_weight_in_8_bits_gives_exact_sums_of_rounded_numbers(
    ops: Ops, dtype: torch.dtype, with_bias: bool, count: int, width: int, out: int
) -> None:
    x, weight = random(count, width).to(dtype), random(out, width).to(dtype)
    x[-1] = 0
    bias = random(out).to(dtype) if with_bias else None
    (left, step), (right, steps) = rounded(x), rounded(weight)
    expected = (left.double() @ right.double().T).float() * (step * steps.T)
    if bias is not None:
        expected = expected + bias.float()
    small = Int8Weight.of(weight)
    # not one bit is another
    assert torch.equal(ops.linear(small, bias, wide=True)(x), expected)
    assert torch.equal(ops.linear(small, bias)(x), expected.to(dtype))


@pytest.mark.parametrize("half", [1, 16, 50])
def test_a_gated_product_may_be_in_8_bits(ops: Ops, half: int) -> None:
    x, weight, bias = random(9, 32), random(2 * half, 32), random(2 * half)
    gate, held = ops.linear(Int8Weight.of(weight), bias)(x).chunk(2, -1)
    gated = ops.gated(Int8Weight.of(weight), bias, "silu")(x)
    torch.testing.assert_close(gated, gate * gate.sigmoid() * held)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_so_in_8_bits_and_in_its_row(ops: Ops, broken: float) -> None:
    x, small = random(3, 36), Int8Weight.of(random(40, 36))
    sound = ops.linear(small, None)(x)
    x[1, 35] = broken
    found = ops.linear(small, None)(x)
    assert not found[1].isfinite().any()
    assert torch.equal(found[::2], sound[::2])


def test_a_norm_in_half_precision_may_have_a_weight_in_float32(ops: Ops) -> None:
    x, weight = random(5, 96).bfloat16(), 1 + random(96) / 100
    expected = x.float() / x.float().pow(2).mean(-1, keepdim=True).add(1e-6).sqrt() * weight
    normal = ops.rms_norm(x, weight, 1e-6)
    assert normal.dtype == torch.bfloat16
    torch.testing.assert_close(normal, expected.bfloat16())


def test_layer_norm_gives_rows_of_mean_zero_and_deviation_one_scaled_and_shifted(ops: Ops) -> None:
    x, weight, bias = random(5, 96) * 9 + 4, random(96), random(1, 96)[0]
    deviation = (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True).add(1e-6).sqrt()
    expected = (x - x.mean(-1, keepdim=True)) / deviation * weight + bias
    torch.testing.assert_close(ops.layer_norm(x, weight, bias, 1e-6), expected)


def test_gelu_is_the_share_of_a_normal_distribution_that_lies_below(ops: Ops) -> None:
    x = random(5, 14)
    torch.testing.assert_close(ops.gelu(x), x * torch.special.ndtr(x))


@pytest.mark.parametrize("counts", [[1], [7], [3, 1, 40, 5], [128], [300, 2]])
@pytest.mark.parametrize("reach", [None, 0, 1, 6, 64, 400])
def test_attention_both_ways_sees_of_its_own_sequence_what_is_within_reach(
    ops: Ops, counts: list[int], reach: int | None
) -> None:
    qkv = random(sum(counts), 3, 2, 10)
    out = ops.attention_both_ways(counts, SCALE, reach)(qkv)
    for own, found in zip(qkv.split(counts), out.split(counts), strict=True):
        for row, head in np.ndindex(len(own), 2):
            near = slice(None) if reach is None else slice(max(0, row - reach), row + reach + 1)
            weights = (own[near, 1, head] @ own[row, 0, head] * SCALE).softmax(0)
            torch.testing.assert_close(found[row, head], weights @ own[near, 2, head], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 9])
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_multiplies_by_the_transposed_weight(ops: Ops, rows: int, with_bias: bool) -> None:
    x, weight, bias = random(rows, 13), random(5, 13), random(5) if with_bias else None
    expected = x @ weight.T + (bias if bias is not None else 0)
    torch.testing.assert_close(ops.linear(weight, bias)(x), expected)


def test_embedding_looks_rows_up(ops: Ops) -> None:
    weight = random(6, 3)
    assert torch.equal(ops.embedding(torch.tensor([5, 0, 5]), weight), weight[[5, 0, 5]])


def test_inputs_are_left_as_they_were(ops: Ops) -> None:
    x, weight = random(4, 2, 6), random(2, 6)
    kept = x.clone()
    ops.rms_norm(x, weight, 1e-6)
    ops.rotary(x, torch.ones(4, 1, 6), torch.ones(4, 1, 6))
    for activation in ("silu", "gelu_tanh"):
        ops.gated(random(4, 12), None, activation)(x.flatten(1))
    ops.add_rms_norm(x, x, weight, 1e-6)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", ["cpu", "native"])
def test_a_packed_product_gives_a_row_the_same_bits_in_any_batch(name: str, gated: bool, dtype: torch.dtype) -> None:
    """Rows go in groups of all sizes, and some ask for the next weights meanwhile."""
    ops, weight = loaded(name), random(400, 96).to(dtype)
    product = ops.gated(weight, None, "silu") if gated else ops.linear(weight, None)
    x = random(200, 96).to(dtype)
    whole = product(x)
    for rows in (*range(1, 65), 127, 128, 129):
        assert torch.equal(product(x[:rows]), whole[:rows]), rows
