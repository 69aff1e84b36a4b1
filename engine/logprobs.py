"""What a model made of a position: the chance of the token that stands there, of the likeliest, and of some by id.

Numbers are those of the raw logits, before temperature, penalties and all that requests want changed, or, where a mode
says so, of the processed ones that a token is drawn from. Each row is computed by itself, so they do not depend on the
rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.kernels.batch import on_device
from schemas.generation import Sampling, TokenLogprobs

Numbers = npt.NDArray[Any]

LogprobsMode = Literal["raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits"]
"""What is told: of which logits, and whether as they are or as logarithms of chances. The names are vLLM's."""

_LEAST: Final = -9999.0
"""What is told of a token that cannot be drawn, whose logarithm no JSON can write."""


class Measured(NamedTuple):
    """A row of logits of which something is to be told."""

    row: int
    best: int
    """How many of the likeliest tokens are told."""
    ids: tuple[int, ...]
    """Tokens that are told beside those; what the model has no logit for is left out."""
    searching: bool = False
    """Whether only tokens are told that may come."""


class MeasuredPrompt(NamedTuple):
    """Tokens of a prompt of which something is to be told; each is judged where the one before it was computed."""

    request: str
    position: int
    """Of the first of them."""
    first: int
    """Index in the flat batch of the token before it."""
    tokens: npt.NDArray[np.integer]
    best: int
    ids: tuple[tuple[int, ...], ...]
    """Of each of them the tokens that are told beside those."""


def measures(sampling: Sampling) -> bool:
    """Say whether a request wants to be told anything."""
    return sampling.logprobs is not None or sampling.prompt_logprobs is not None


class Telling(NamedTuple):
    """Numbers about rows of logits, still on the device."""

    counts: tuple[int, ...]
    """[rows]: how many tokens are told of each."""
    names: Tensor
    values: Tensor
    """int64 and float32, of all rows one after the other: the token that stands there first."""
    ranks: Tensor
    """int64 [rows]."""


def telling(
    logits: Tensor, chosen: Tensor, best: int, ids: Sequence[Sequence[int]], mode: LogprobsMode = "raw_logprobs"
) -> Telling:
    """Describe rows of float32 logits [rows, vocabulary] without waiting for them.

    Args:
        logits: what the model gave, or what of it tokens are drawn from.
        chosen: int64 [rows], the token that stands at each.
        best: how many of the likeliest are told of each; what there is of a smaller vocabulary.
        ids: tokens that are told beside those of each; what the model has no logit for is left out.
        mode: whether logits are told, or logarithms of chances.
    """
    vocabulary = logits.shape[1]
    numbers = logits if mode.endswith("logits") else torch.log_softmax(logits, dim=-1)
    logprobs = numbers.clamp(min=_LEAST) if mode.startswith("processed") else numbers
    own = logprobs.gather(1, chosen[:, None])
    ranks = (logprobs > own).sum(dim=-1) + 1
    counts, names, values = [], list[Tensor](), list[Tensor]()
    for row, token, asked in zip(logprobs, chosen[:, None], ids, strict=True):
        # row by row: which of equals is the last of the best may depend on how many rows are sorted at once
        parts = [token, row.topk(min(best, vocabulary)).indices]
        named = [name for name in asked if name < vocabulary]
        if named:
            parts.append(on_device(np.array(named, np.int64), row.device))
        names.append(torch.cat(parts))
        values.append(row.index_select(0, names[-1]))
        counts.append(len(names[-1]))
    return Telling(tuple(counts), torch.cat(names), torch.cat(values), ranks)


def told(counts: Sequence[int], names: Numbers, values: Numbers, ranks: Numbers) -> list[TokenLogprobs]:
    """Put what was told into words, on the host: as `Telling` has it."""
    found, at = [], 0
    for count, rank in zip(counts, ranks.tolist(), strict=True):
        rows = slice(at, at + count)
        found.append(TokenLogprobs(tuple(names[rows].tolist()), tuple(values[rows].tolist()), rank))
        at += count
    return found


def measure(
    logits: Tensor,
    chosen: Sequence[int],
    best: int,
    ids: Sequence[Sequence[int]],
    mode: LogprobsMode = "raw_logprobs",
) -> list[TokenLogprobs]:
    """Describe rows of float32 logits [rows, vocabulary], and wait for it: as `telling`."""
    found = telling(logits, on_device(np.array(chosen, np.int64), logits.device), best, ids, mode)
    return told(found.counts, *(part.cpu().numpy() for part in found[1:]))


_LOOKED_AT: Final = 4
"""So many times as many tokens as are wanted are looked at: of some the grammar finds that nothing can follow."""


def measure_search(
    logits: Tensor, left: Tensor, token: int, best: int, possible: Callable[[int], bool], certain: int | None
) -> TokenLogprobs:
    """Describe what could come at a step of a search, by the model's own chances.

    Args:
        logits: what the model gave, float32 [vocabulary].
        left: the same, and minus infinity where a token may not come.
        token: the one that is to stand there.
        best: how many of the likeliest are told.
        possible: says whether a token that may come leads anywhere.
        certain: one that does, if one is known.
    """
    logprobs = torch.log_softmax(logits, dim=-1).masked_fill(left == float("-inf"), float("-inf"))
    values, order = logprobs.topk(min(best * _LOOKED_AT, len(logprobs)))
    found = [(name, value) for name, value in zip(order.tolist(), values.tolist(), strict=True) if value > -inf]
    kept = [(name, value) for name, value in found if name == certain or possible(name)][:best]
    if certain is not None and all(name != certain for name, _ in kept):
        kept = [*kept[: best - 1], (certain, float(torch.log_softmax(logits, dim=-1)[certain]))]
    return TokenLogprobs((token, *(name for name, _ in kept)), (0.0, *(value for _, value in kept)), 1)
