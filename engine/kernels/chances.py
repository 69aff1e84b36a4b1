"""How rows of logits are drawn from, as kernels take it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Chances(NamedTuple):
    """[rows] each, on the device; as `engine.sampling.Choices` means them."""

    temperature: Tensor
    """float32; 0 is greedy."""
    top_k: Tensor
    """int64; 0 keeps all."""
    top_p: Tensor
    """float32; 1 keeps all."""
    min_p: Tensor
    """float32; 0 keeps all."""
    seed: Tensor
    """int64."""
    position: Tensor
    """int64: in the output, from 0."""
