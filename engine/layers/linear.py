"""Products with learned weights, and how several of a checkpoint's tensors become one product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from engine.kernels.ops import Ops

Linear = Callable[[Tensor], Tensor]
"""[tokens, in] -> [tokens, out]."""


class TensorSource(Protocol):
    """Gives a checkpoint's tensors by name, on the device and in the number format of the model."""

    def take(self, name: str, *shape: int) -> Tensor:
        """Return the tensor.

        Raises:
            CheckpointError: It is missing or has another shape.
        """


def load_linear(ops: Ops, source: TensorSource, name: str, shape: tuple[int, int], bias: bool) -> Linear:
    """Load `name`.weight [out, in] = `shape`, and `name`.bias [out] where the architecture has one."""
    return load_stacked(ops, source, ((name, shape[0]),), shape[1], bias)


def load_stacked(ops: Ops, source: TensorSource, parts: Sequence[tuple[str, int]], width: int, bias: bool) -> Linear:
    """Load several (name, out) with the same input of `width` as one product, whose outputs follow one another."""
    weights = [source.take(f"{name}.weight", out, width) for name, out in parts]
    biases = [source.take(f"{name}.bias", out) for name, out in parts] if bias else []
    if len(parts) == 1:
        return ops.linear(weights[0], biases[0] if bias else None)
    return ops.linear(torch.cat(weights), torch.cat(biases) if bias else None)
