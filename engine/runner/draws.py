"""How a step's tokens are drawn and judged: by kernels where the ops have them, or operation by operation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from engine.kernels.batch import on_device
from engine.kernels.chances import Chances, unsound
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
        kept, device = choices.kept, logits.device
        if not kept:
            shares = on_device(np.stack((choices.temperature, choices.top_p, choices.min_p)), device)
            whole = on_device(np.stack((choices.top_k, choices.seed)), device)
            rows = (*shares.unbind(), *whole.unbind())
            kept |= zip(("temperature", "top_p", "min_p", "top_k", "seed"), rows, strict=True)
        return kernel(logits, Chances(**kept, position=on_device(choices.index, device)))

    return draw


def unsound_for(ops: Ops) -> Callable[[Tensor], Tensor | None]:
    """Choose how the rows are found that hold a number that is not finite; see `RowKernels`."""
    return unsound if ops.rows is None else ops.rows.unsound
