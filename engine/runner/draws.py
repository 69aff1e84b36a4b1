"""How a step's tokens are drawn and judged: by kernels where the ops have them, or operation by operation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from engine.kernels.batch import on_device
from engine.kernels.chances import Chances, finite
from engine.kernels.ops import Ops
from engine.sampling import Choices, sample

Draw = Callable[[Tensor, Choices], Tensor]
"""float32 [rows, vocabulary] -> int64 [rows]; see `engine.sampling.sample`."""


def draw_for(ops: Ops) -> Draw:
    """Choose how tokens are drawn from the logits of a model with such ops."""
    if ops.rows is None:
        return sample
    kernel = ops.rows.draw

    def draw(logits: Tensor, choices: Choices) -> Tensor:
        shares = on_device(np.stack((choices.temperature, choices.top_p, choices.min_p)), logits.device)
        whole = on_device(np.stack((choices.top_k, choices.seed, choices.index)), logits.device)
        return kernel(logits, Chances(shares[0], whole[0], shares[1], shares[2], whole[1], whole[2]))

    return draw


def finite_for(ops: Ops) -> Callable[[Tensor], Tensor]:
    """Choose how it is found out which rows are finite: [rows, n] -> bool [rows]."""
    return finite if ops.rows is None else ops.rows.finite
