"""A step as the device is given it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from engine.kernels.adapters import Routed
from engine.kernels.batch import Integers, PagedBatch
from engine.logits import Wanted
from engine.logprobs import Measured, MeasuredPrompt
from engine.sampling import Choices
from schemas.steps import Slice


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """One step, ready for the device. Arrays over slices are in the plan's order."""

    slices: tuple[Slice, ...]
    """Those that can be computed."""
    rows: Integers
    """[slices]: each request's row in the table."""
    ends: Integers
    """[slices]: position after the last one computed: where a sampled token goes."""
    last: Integers
    """[slices]: index of each slice's last token in the flat batch."""
    sampled: npt.NDArray[np.bool_]
    """[slices]: whether a token is sampled."""
    tokens: Tensor
    positions: Tensor
    """int64 [tokens]."""
    heads: Tensor
    """int64 [sampled slices]: indices into the flat batch of the tokens whose logits are wanted."""
    paged: tuple[PagedBatch, ...]
    """For each group of layers."""
    choices: Choices
    """Over the sampled slices."""
    routed: Routed | None
    """The tokens that have an adapter."""
    wanted: tuple[Wanted, ...]
    """Those of the sampled slices whose logits are to be changed."""
    measured: tuple[Measured, ...]
    """Those whose logits are to be told of."""
    prompts: tuple[MeasuredPrompt, ...]
    forced: tuple[tuple[int, int], ...] = ()
    """(index among the sampled slices, token) where the answer's tokens are given."""
    remote: Remote | None = None
    """What is known of it where the device goes ahead of the host."""


class Remote(NamedTuple):
    """What a step has to know that is launched before what came of the one before it is known."""

    turn: int
    """How many were launched before it."""
    lives: Integers
    """[slices]: which of the requests that have had a row it is."""
    places: tuple[Integers, Integers]
    """[tokens]: row in the table and position, in the flat batch's order."""
    slots: tuple[Integers, ...]
    """[tokens] for each group, on the host: where keys and values go."""
    takers: Tensor
    """int64 [sampled slices]: rows of the table, on the device."""


class Expected(NamedTuple):
    """Tokens that a step will bring."""

    places: Integers
    """Which of its sampled slices bring one that is new, [tokens]."""
    rows: Integers
    ends: Integers
    """[tokens]: where in the table they go."""
    lives: Integers | None
    """[tokens]: see `Remote`."""


class LaidStep(NamedTuple):
    """A step as it was laid; what is of requests is in the flat batch's order, singles ahead."""

    flat: FlatBatch
    rows: Integers
    """[slices]: each request's row in the table."""
    lengths: Integers
    """[slices]: tokens behind the step, so the position of the next."""
    tables: Tensor
    """[groups, slices, widest]."""

    def goes_on(self, slices: Sequence[Slice]) -> bool:
        """Say whether slices are one token more of each request of this step, in its order, and nothing else."""
        if len(slices) != len(self.flat.slices):
            return False
        for piece, last in zip(slices, self.flat.slices, strict=True):
            same = piece.request == last.request and piece.start == last.start + 1
            if not (same and piece.count == 1 == last.count and piece.sample and last.sample):
                return False
        return True
