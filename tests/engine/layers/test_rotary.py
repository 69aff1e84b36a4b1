"""Angles of positions, plain and stretched."""

from __future__ import annotations

import math

import torch

from engine.layers.rotary import Llama3Scaling, Rotary

CPU = torch.device("cpu")


def angles(rotary: Rotary, position: int) -> torch.Tensor:
    cos, sin = rotary.angles(torch.tensor([position]), torch.float32)
    half = cos.shape[-1] // 2
    assert torch.equal(sin[..., :half], -sin[..., half:])
    return torch.atan2(sin[0, 0, half:], cos[0, 0, half:])


def test_each_pair_turns_slower_than_the_one_before_by_the_same_factor() -> None:
    expected = torch.tensor([1.0, 10**-0.5, 10**-1, 10**-1.5])
    torch.testing.assert_close(angles(Rotary(8, 100.0, None, CPU), 1), expected)


def test_scaling_keeps_fast_turns_and_stretches_slow_ones() -> None:
    scaling = Llama3Scaling(factor=4.0, low_freq_factor=1.0, high_freq_factor=2.0, original_positions=10)
    plain, scaled = angles(Rotary(8, 100.0, None, CPU), 1), angles(Rotary(8, 100.0, scaling, CPU), 1)
    # 10 positions make 10 / (2 pi) = 1.59 turns of the fastest pair, between 1 and 2; less than 1 of the others
    blend = 10 / (2 * math.pi) - 1
    torch.testing.assert_close(scaled[0], plain[0] * (blend + (1 - blend) / 4))
    torch.testing.assert_close(scaled[1:], plain[1:] / 4)
