"""What requests want changed about their logits before a token is chosen, each row by itself.

The order is vLLM's: what is allowed, bad words, stops that come too early, bias, what processors of other packages do
(`engine.processors`), penalties. Each is exact for one
element at a time, so a row's numbers do not depend on the rows beside it. Temperature, min-p, top-k and top-p follow in
`engine.sampling`.

Repetition penalty: Keskar et al. 2019, "CTRL", arXiv 1909.05858. Presence and frequency penalties are those of the
OpenAI API: of tokens in the output alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.kernels.batch import on_device
from schemas.generation import Sampling

Tokens = npt.NDArray[np.integer]

_NEVER: Final = float("-inf")


class Wanted(NamedTuple):
    """A row of logits whose request wants something changed."""

    row: int
    sampling: Sampling
    prompt: Tokens
    """The request's prompt, [tokens]."""
    output: Tokens
    """Its output so far, [tokens]."""


def changes_logits(sampling: Sampling) -> bool:
    """Say whether a request wants anything changed, now or ever."""
    return bool(
        sampling.presence_penalty
        or sampling.frequency_penalty
        or sampling.repetition_penalty != 1
        or sampling.min_tokens
        or sampling.logit_bias
        or sampling.allowed_token_ids
        or sampling.bad_words
        or sampling.extra_args
    )


def reads_output(sampling: Sampling) -> bool:
    """Say whether what a request wants changed depends on which tokens its output has: it waits for the last one."""
    return bool(
        sampling.presence_penalty
        or sampling.frequency_penalty
        or sampling.repetition_penalty != 1
        or sampling.extra_args
        or any(len(word) > 1 for word in sampling.bad_words)
    )


Change = Callable[[Tensor, Sequence[Wanted]], None]


def _nothing(logits: Tensor, wanted: Sequence[Wanted]) -> None:
    """Change nothing."""


def adjust(logits: Tensor, wanted: Sequence[Wanted], others: Change = _nothing) -> None:
    """Change some rows of float32 logits [rows, vocabulary] in place; `barren` tells where no token is left.

    What `others` want to change comes before the penalties. Nothing else waits for a device.
    """
    for one in wanted:
        if one.sampling.allowed_token_ids:
            _allow(logits[one.row], one.sampling.allowed_token_ids)
    _set(logits, [(one.row, token) for one in wanted for token in _banned(one)], _NEVER)
    for one in wanted:
        if one.sampling.logit_bias:
            _add(logits[one.row], one.sampling.logit_bias)
    others(logits, wanted)
    _penalise_repetition(logits, wanted)
    _penalise_output(logits, wanted)


def barren(logits: Tensor, rows: Sequence[int]) -> Tensor:
    """Tell of some rows of logits [rows, vocabulary] whether no token is left in them: bool [some rows]."""
    return logits.index_select(0, _whole(rows, logits)).amax(dim=-1) == _NEVER


def _allow(row: Tensor, tokens: Sequence[int]) -> None:
    kept = _whole([token for token in tokens if token < len(row)], row)
    values = row[kept]
    row.fill_(_NEVER)
    row[kept] = values


def _banned(one: Wanted) -> Iterator[int]:
    """Name the tokens that may not come next."""
    sampling, output = one.sampling, one.output
    for word in sampling.bad_words:
        *before, last = word
        if not before or (len(output) >= len(before) and output[-len(before) :].tolist() == before):
            yield last
    if len(output) < sampling.min_tokens:
        yield from sampling.stop_tokens


def _set(logits: Tensor, places: Sequence[tuple[int, int]], value: float) -> None:
    # a tokenizer may have tokens that its model has no logit for
    places = [place for place in places if place[1] < logits.shape[1]]
    if places:
        rows, tokens = on_device(np.array(places, np.int64).T, logits.device).unbind()
        logits[rows, tokens] = value


def _add(row: Tensor, bias: Mapping[int, float]) -> None:
    known = {token: value for token, value in bias.items() if token < len(row)}
    row[_whole([*known], row)] += on_device(np.array([*known.values()], np.float32), row.device)


def _penalise_repetition(logits: Tensor, wanted: Sequence[Wanted]) -> None:
    """Divide what speaks for a token that was there before, and multiply what speaks against it."""
    chosen = [one for one in wanted if one.sampling.repetition_penalty != 1]
    if not chosen:
        return
    seen = [np.unique(np.concatenate((one.prompt, one.output))) for one in chosen]
    rows, tokens = _places(logits, chosen, seen)
    penalty = _spread([one.sampling.repetition_penalty for one in chosen], seen, logits)
    values = logits[rows, tokens]
    logits[rows, tokens] = torch.where(values > 0, values / penalty, values * penalty)


def _penalise_output(logits: Tensor, wanted: Sequence[Wanted]) -> None:
    chosen = [one for one in wanted if one.sampling.presence_penalty or one.sampling.frequency_penalty]
    if not chosen:
        return
    counted = [np.unique(one.output, return_counts=True) for one in chosen]
    seen = [tokens for tokens, _ in counted]
    rows, tokens = _places(logits, chosen, seen)
    presence = _spread([one.sampling.presence_penalty for one in chosen], seen, logits)
    frequency = _spread([one.sampling.frequency_penalty for one in chosen], seen, logits)
    counts = on_device(np.concatenate([count for _, count in counted]).astype(np.float32), logits.device)
    logits[rows, tokens] -= frequency * counts + presence


def _places(logits: Tensor, wanted: Sequence[Wanted], seen: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    rows = np.repeat([one.row for one in wanted], [len(tokens) for tokens in seen])
    found = on_device(np.stack((rows, np.concatenate(seen))).astype(np.int64), logits.device).unbind()
    return found[0], found[1]


def _whole(numbers: Sequence[int], like: Tensor) -> Tensor:
    return on_device(np.array(numbers, np.int64), like.device)


def _spread(values: Sequence[float], seen: Sequence[Tokens], like: Tensor) -> Tensor:
    spread = np.repeat(np.array(values, np.float32), [len(tokens) for tokens in seen])
    return on_device(spread, like.device)
