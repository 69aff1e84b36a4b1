"""Several tensors of a checkpoint become one product."""

from __future__ import annotations

import torch

from engine.kernels.ops import load_ops
from engine.kernels.weights import Quantization
from engine.layers.linear import load_linear, load_stacked


class Tensors:
    """A source with random tensors, which remembers what was asked for."""

    quantization: Quantization = "none"

    def __init__(self) -> None:
        self.given: dict[str, torch.Tensor] = {}

    def take(self, name: str, *shape: int) -> torch.Tensor:
        return self.given.setdefault(name, torch.randn(*shape))

    def weight(self, name: str, out: int, width: int) -> torch.Tensor:
        return self.take(f"{name}.weight", out, width)


def test_stacked_outputs_follow_one_another_in_the_order_of_their_parts() -> None:
    source, x = Tensors(), torch.randn(4, 6)
    product = load_stacked(load_ops("reference"), source, (("q", 8), ("k", 2), ("v", 2)), 6, True)
    parts = [x @ source.given[f"{name}.weight"].T + source.given[f"{name}.bias"] for name in ("q", "k", "v")]
    torch.testing.assert_close(product(x), torch.cat(parts, dim=-1))


def test_a_layer_without_bias_asks_for_none() -> None:
    source, x = Tensors(), torch.randn(4, 6)
    product = load_linear(load_ops("cpu"), source, "out", (3, 6), False)
    assert list(source.given) == ["out.weight"]
    torch.testing.assert_close(product(x), x @ source.given["out.weight"].T)
