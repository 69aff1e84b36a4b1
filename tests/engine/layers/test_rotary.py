"""Angles of positions, plain and stretched."""

from __future__ import annotations

import math

import torch

from engine.layers.rotary import Rope, Rotary
from engine.layers.stretching import DynamicNtk, Llama3, LongRope

CPU = torch.device("cpu")


def rotary(rope: Rope, context: int = 100) -> Rotary:
    return Rotary(rope, context, CPU)


def angles(rotary: Rotary, position: int) -> torch.Tensor:
    cos, sin = rotary.angles(torch.tensor([position]), torch.float32)
    half = cos.shape[-1] // 2
    assert torch.equal(sin[..., :half], -sin[..., half:])
    return torch.atan2(sin[0, 0, half:], cos[0, 0, half:])


def test_each_pair_turns_slower_than_the_one_before_by_the_same_factor() -> None:
    expected = torch.tensor([1.0, 10**-0.5, 10**-1, 10**-1.5])
    torch.testing.assert_close(angles(rotary(Rope(8, 100.0)), 1), expected)


def test_scaling_keeps_fast_turns_and_stretches_slow_ones() -> None:
    scaling = Llama3(factor=4.0, low_freq_factor=1.0, high_freq_factor=2.0, original_positions=10)
    plain, scaled = angles(rotary(Rope(8, 100.0)), 1), angles(rotary(Rope(8, 100.0, scaling)), 1)
    # 10 positions make 10 / (2 pi) = 1.59 turns of the fastest pair, between 1 and 2; less than 1 of the others
    blend = 10 / (2 * math.pi) - 1
    torch.testing.assert_close(scaled[0], plain[0] * (blend + (1 - blend) / 4))
    torch.testing.assert_close(scaled[1:], plain[1:] / 4)


def test_a_model_that_serves_more_than_its_first_positions_takes_the_long_factors_from_the_first_token_on() -> None:
    long = LongRope(short=(1.0,) * 4, long=(2.0, 2.0, 4.0, 4.0), original_positions=10, magnitude=1.0)
    plain = angles(rotary(Rope(8, 100.0)), 3)
    torch.testing.assert_close(angles(rotary(Rope(8, 100.0, long), 10), 3), plain)
    torch.testing.assert_close(angles(rotary(Rope(8, 100.0, long), 11), 3), plain / torch.tensor([2.0, 2.0, 4.0, 4.0]))


def test_a_dynamic_rotation_depends_on_the_position_alone() -> None:
    dynamic = rotary(Rope(8, 100.0, DynamicNtk(4.0, 10)))
    torch.testing.assert_close(angles(dynamic, 9), angles(rotary(Rope(8, 100.0)), 9))
    # a sequence that ends at position 14 is 15 long, half more than 10: theta grows by (4 * 1.5 - 3) ** (8 / 6)
    torch.testing.assert_close(angles(dynamic, 14), angles(rotary(Rope(8, 100.0 * 3 ** (8 / 6))), 14))
    many, _ = dynamic.angles(torch.tensor([14, 3, 99]), torch.float32)
    for row, position in enumerate((14, 3, 99)):
        assert torch.equal(many[row : row + 1], dynamic.angles(torch.tensor([position]), torch.float32)[0])
