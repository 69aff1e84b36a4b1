"""Products with learned weights, and how several of a checkpoint's tensors become one product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from engine.kernels.ops import Ops
from engine.kernels.products import Activation, Linear
from engine.kernels.weights import Quantization, Weight, joined, weight_in
from engine.kernels.whole import Gated


class TensorSource(Protocol):
    """Gives a checkpoint's tensors by name, on the device and in the number format of the model."""

    @property
    def quantization(self) -> Quantization:
        """How products with weights are to be computed."""

    def has(self, name: str) -> bool:
        """Whether there is a tensor of this name."""

    def take(self, name: str, *shape: int) -> Tensor:
        """Return the tensor.

        Raises:
            CheckpointError: It is missing or has another shape.
        """

    def weight(self, name: str, out: int, width: int) -> Weight:
        """Return the weight [out, width] of the projection `name`, in as few bits as the checkpoint has it.

        Raises:
            CheckpointError: It is missing or has another shape.
        """


def load_linear(ops: Ops, source: TensorSource, name: str, shape: tuple[int, int], bias: bool) -> Linear:
    """Load `name`.weight [out, in] = `shape`, and `name`.bias [out] where the architecture has one."""
    return load_stacked(ops, source, ((name, shape[0]),), shape[1], bias)


def load_stacked(
    ops: Ops,
    source: TensorSource,
    parts: Sequence[tuple[str, int]],
    width: int,
    bias: bool,
) -> Linear:
    """Load several (name, out) with the same input of `width` as one product, whose outputs follow one another."""
    return ops.linear(*_joined(source, parts, width, bias))


def load_gated(
    ops: Ops, source: TensorSource, parts: Sequence[tuple[str, int]], width: int, bias: bool, gate: Activation
) -> Gated:
    """The same where the first half of the outputs gates the second."""
    return ops.gated(*_joined(source, parts, width, bias), gate)


def _joined(
    source: TensorSource, parts: Sequence[tuple[str, int]], width: int, bias: bool
) -> tuple[Weight, Tensor | None]:
    weights = [source.weight(name, out, width) for name, out in parts]
    biases = [source.take(f"{name}.bias", out) for name, out in parts] if bias else []
    weight = weight_in(source.quantization, joined(weights))
    offsets = (biases[0] if len(parts) == 1 else torch.cat(biases)) if bias else None
    return weight, offsets
