"""From logits to tokens, each row by its own parameters and independent of the rows beside it.

Randomness is counter-based: the noise of a token is a pure function of (seed, output position, token id), Philox 4x32
with ten rounds (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3", SC11). So the same seed gives the
same tokens whatever else is in the batch, after a preemption, and in a regeneration that starts in the middle.

A token is drawn by the Gumbel-max trick: the largest of logit / temperature + Gumbel noise is distributed as the
softmax (Gumbel 1954; Maddison et al. 2014, "A* Sampling", arXiv 1411.0030). Top-k: Fan et al. 2018, arXiv 1805.04833.
Top-p: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", arXiv 1904.09751.

Ties at the border of top-k or top-p all stay in: the outcome then does not depend on how a sort orders equals.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.kernels.batch import on_device

_WORD: Final = 0xFFFFFFFF
_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS: Final = (0x9E3779B9, 0xBB67AE85)
_ROUNDS: Final = 10

_CANDIDATES: Final = 256
"""Logits looked at first when top-k or top-p cuts a row; nearly always enough, and far cheaper than a full sort."""


@dataclass(frozen=True, slots=True)
class Choices:
    """How each row of logits is sampled; all arrays are [rows] on the host."""

    temperature: npt.NDArray[np.float32]
    """0 is greedy."""
    top_k: npt.NDArray[np.int64]
    """0 keeps all."""
    top_p: npt.NDArray[np.float32]
    """1 keeps all."""
    min_p: npt.NDArray[np.float32]
    """0 keeps all."""
    seed: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]
    """Position of the token in the output, from 0."""
    kept: dict[str, Tensor] = field(default_factory=dict, compare=False)
    """What a device holds of all but `index`; whoever draws fills it, and the next step finds it."""

    def advanced(self) -> Choices:
        """Return what the same rows are sampled by a token later."""
        return replace(self, index=self.index + 1)

    def among(self, rows: npt.NDArray[np.bool_]) -> Choices:
        """Return the choices of some rows only."""
        return Choices(
            self.temperature[rows],
            self.top_k[rows],
            self.top_p[rows],
            self.min_p[rows],
            self.seed[rows],
            self.index[rows],
        )


def sample(logits: Tensor, choices: Choices) -> Tensor:
    """Choose one token per row: float32 [rows, vocabulary] -> int64 [rows]."""
    tokens = logits.argmax(dim=-1)
    drawn = choices.temperature > 0
    if not drawn.any():
        return tokens
    if drawn.all():
        return _draw(logits, choices)
    rows = on_device(np.flatnonzero(drawn), logits.device)
    return tokens.index_copy_(0, rows, _draw(logits[rows], choices.among(drawn)))


def _draw(logits: Tensor, choices: Choices) -> Tensor:
    """Sample every row with its temperature, which must be above 0."""
    scaled = logits / _column(choices.temperature, logits)
    if choices.min_p.any():
        scaled = _above_min_p(scaled, choices.min_p)
    cut = (choices.top_k > 0) | (choices.top_p < 1)
    # a row's way through this function depends on that row alone, so that its rounding does too
    narrow = cut & (choices.top_k < _CANDIDATES)
    tokens = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
    for rows, width in ((~cut, None), (narrow, _CANDIDATES), (cut & ~narrow, logits.shape[1])):
        if rows.any():
            some = on_device(np.flatnonzero(rows), logits.device)
            few, chosen = (scaled, choices) if rows.all() else (scaled[some], choices.among(rows))
            drawn = _draw_from_all(few, chosen) if width is None else _draw_from_best(few, chosen, width)
            tokens.index_copy_(0, some, drawn)
    return tokens


def drawn_from(logits: Tensor, choices: Choices) -> Tensor:
    """Return the logits that tokens are drawn from: by temperature, and minus infinity where a token is left out.

    Greedy rows, whose likeliest token is taken, stay as they are.
    """
    left = logits.clone()
    drawn = choices.temperature > 0
    if drawn.any():
        rows, chosen = on_device(np.flatnonzero(drawn), logits.device), choices.among(drawn)
        scaled = _above_min_p(logits[rows] / _column(chosen.temperature, logits), chosen.min_p)
        least = _least(scaled, scaled.sort(dim=-1, descending=True).values, chosen)
        left[rows] = scaled.masked_fill(scaled < least, float("-inf"))
    return left


def _above_min_p(scaled: Tensor, min_p: npt.NDArray[np.float32]) -> Tensor:
    """Leave out the tokens whose chance is below a share of the likeliest one's (Nguyen et al. 2024, arXiv 2407.01082).

    A ratio of chances is a difference of logits, so no softmax is needed; a row with a share of 0 stays as it is.
    """
    with np.errstate(divide="ignore"):
        least = scaled.amax(dim=-1, keepdim=True) + _column(np.log(min_p), scaled)
    return scaled.masked_fill(scaled < least, float("-inf"))


def _draw_from_all(scaled: Tensor, choices: Choices) -> Tensor:
    """Sample rows that have neither top-k nor top-p."""
    return (scaled + gumbel(choices.seed, choices.index, scaled)).argmax(dim=-1)


def _draw_from_best(scaled: Tensor, choices: Choices, width: int) -> Tensor:
    """Sample rows among their `width` largest logits; rows that need more are done again with the whole vocabulary."""
    vocabulary = scaled.shape[1]
    values, ids = scaled.topk(min(width, vocabulary), dim=-1)
    least = _least(scaled, values, choices)
    noisy = values + gumbel_at(choices.seed, choices.index, ids)
    tokens = ids.gather(1, noisy.masked_fill_(values < least, float("-inf")).argmax(dim=-1, keepdim=True))[:, 0]
    if values.shape[1] == vocabulary:
        return tokens
    # everything above the border, ties included, is known to be among the candidates if one of them is below it
    short = (values[:, -1] >= least[:, 0]).cpu().numpy()
    if short.any():
        rows = on_device(np.flatnonzero(short), scaled.device)
        tokens.index_copy_(0, rows, _draw_from_best(scaled[rows], choices.among(short), vocabulary))
    return tokens


def _least(scaled: Tensor, values: Tensor, choices: Choices) -> Tensor:
    """Return the smallest logit that stays in, [rows, 1]: top-k first, then top-p of what it leaves.

    `values` are the largest of `scaled` in falling order; where they are too few, their last is returned.
    """
    width = values.shape[1]
    limited = choices.top_k > 0
    rank = on_device(np.where(limited, np.minimum(choices.top_k, width), width) - 1, scaled.device)
    least_by_k = values.gather(1, rank[:, None])
    within = values.masked_fill(values < least_by_k, float("-inf"))
    known = on_device(limited, scaled.device)
    mass = torch.where(known, within.logsumexp(dim=-1), scaled.logsumexp(dim=-1))
    chance = (within - mass[:, None]).exp_()
    before = chance.cumsum(dim=-1) - chance
    kept = (before < _column(choices.top_p, scaled)) & (within > float("-inf"))
    last = (kept.sum(dim=-1, keepdim=True) - 1).clamp_(min=0)
    return values.gather(1, last)


def gumbel(seed: npt.NDArray[np.int64], index: npt.NDArray[np.int64], like: Tensor) -> Tensor:
    """Return Gumbel(0, 1) noise for (seed, output position) [rows] each and every token id, shaped like `like`."""
    rows, vocabulary = like.shape
    quads = torch.arange(-(-vocabulary // 4), device=like.device)[None].expand(rows, -1)
    return _to_gumbel(torch.stack(_bits(seed, index, quads), dim=-1).view(rows, -1)[:, :vocabulary])


def gumbel_at(seed: npt.NDArray[np.int64], index: npt.NDArray[np.int64], ids: Tensor) -> Tensor:
    """Return the same noise for some token ids only: int64 [rows, n] -> float32 [rows, n]."""
    words = torch.stack(_bits(seed, index, ids >> 2), dim=-1)
    return _to_gumbel(words.gather(-1, (ids & 3)[..., None])[..., 0])


def _bits(seed: npt.NDArray[np.int64], index: npt.NDArray[np.int64], quads: Tensor) -> tuple[Tensor, ...]:
    """Return the random words of token ids 4q to 4q + 3, for each q of `quads` [rows, n]."""
    key = (_words(seed & _WORD, quads.device), _words(seed >> 32 & _WORD, quads.device))
    zeros = torch.zeros_like(quads)
    return philox((quads, _words(index & _WORD, quads.device).expand_as(quads), zeros, zeros), key)


def _to_gumbel(words: Tensor) -> Tensor:
    """Map 32 random bits to a Gumbel variable, by way of an exponential.

    The inversion is taken near 0, where float32 is finest: the far tail of the Gumbel comes from there.
    """
    uniform = ((words.float() + 0.5) * 2.0**-32).clamp_(max=1 - 2.0**-24)
    return -torch.log(-torch.log1p(-uniform))


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Return four random 32-bit words for each four of `counter` under two of `key`; int64, broadcast together."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # the product's upper bits may wrap into the sign; the masks take it away again
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (second >> 32 & _WORD) ^ c1 ^ k0, second & _WORD
        c2, c3 = (first >> 32 & _WORD) ^ c3 ^ k1, first & _WORD
        k0, k1 = k0 + _KEY_STEPS[0] & _WORD, k1 + _KEY_STEPS[1] & _WORD
    return c0, c1, c2, c3


def _column(values: npt.NDArray[np.float32], like: Tensor) -> Tensor:
    """Put one number per row beside `like`."""
    return on_device(values, like.device)[:, None]


def _words(values: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """Put one integer per row on the device, [rows, 1]."""
    return on_device(values, device)[:, None]
