"""What some requests want beside a token: their logits changed, or told of, or their answers given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.core.numbers import candidates
from engine.kernels.batch import Integers
from engine.logits import Wanted, changes_logits
from engine.logprobs import Measured, MeasuredPrompt, measures
from schemas.generation import Sampling
from schemas.steps import Slice


class Known(NamedTuple):
    """A table of requests, by row."""

    tokens: npt.NDArray[np.int32]
    """[rows, longest]."""
    known: Integers
    """[rows]: how many tokens."""
    prompt: Integers
    """[rows]: how many of them are the prompt's."""


class Asked(NamedTuple):
    """What is wanted in a step; see `engine.runner.flat.FlatBatch`."""

    wanted: tuple[Wanted, ...]
    measured: tuple[Measured, ...]
    prompts: tuple[MeasuredPrompt, ...]
    forced: tuple[tuple[int, int], ...]


NOTHING_ASKED: Final = Asked((), (), (), ())


class Wishes:
    """Those of the requests that have any, by row of the table."""

    def __init__(self) -> None:
        self._changing: dict[int, Sampling] = {}
        """Rows whose requests want their logits changed."""
        self._measuring: dict[int, Sampling] = {}
        """Rows whose requests want to be told of them."""
        self._forced: dict[int, Sampling] = {}
        """Rows whose requests are given the tokens of their answers."""

    @property
    def any(self) -> bool:
        """Whether there are some."""
        return bool(self._changing or self._measuring or self._forced)

    def admit(self, row: int, sampling: Sampling) -> None:
        """Take a request in."""
        if changes_logits(sampling):
            self._changing[row] = sampling
        if measures(sampling):
            self._measuring[row] = sampling
        if sampling.trace_decode_token_ids:
            self._forced[row] = sampling

    def forget(self, row: int) -> None:
        """Forget whoever has a row."""
        self._changing.pop(row, None)
        self._measuring.pop(row, None)
        self._forced.pop(row, None)

    def of(self, slices: Sequence[Slice], laid: tuple[Integers, Integers, Integers, Any], known: Known) -> Asked:
        """Collect what is wanted of slices that are `laid`: row, end and last index of each, and whether it samples."""
        rows, ends, last, sampled = laid
        wanted = self._wanted(rows[sampled], ends[sampled], known) if self._changing else ()
        told = (
            (self._measured(rows[sampled]), self._prompts(slices, rows, last, known)) if self._measuring else ((), ())
        )
        forced = self._given(rows[sampled], ends[sampled], known) if self._forced else ()
        return Asked(wanted, *told, forced)

    def _wanted(self, rows: Integers, ends: Integers, known: Known) -> tuple[Wanted, ...]:
        """Collect what is to be changed about the logits of some rows."""
        wanted = []
        for index, (row, end) in enumerate(zip(rows.tolist(), ends.tolist(), strict=True)):
            sampling = self._changing.get(row)
            if sampling is not None:
                prompt, tokens = int(known.prompt[row]), known.tokens[row]
                wanted.append(Wanted(index, sampling, tokens[:prompt], tokens[prompt:end]))
        return tuple(wanted)

    def _given(self, rows: Integers, ends: Integers, known: Known) -> tuple[tuple[int, int], ...]:
        """Name the tokens that are not drawn."""
        found = []
        for at, (row, end) in enumerate(zip(rows.tolist(), ends.tolist(), strict=True)):
            given = self._forced[row].trace_decode_token_ids if row in self._forced else ()
            index = end - int(known.prompt[row])
            if index < len(given):
                found.append((at, given[index]))
        return tuple(found)

    def _measured(self, rows: Integers) -> tuple[Measured, ...]:
        """Name the sampled rows of which something is to be told."""
        found = [(at, self._measuring.get(row)) for at, row in enumerate(rows.tolist())]
        return tuple([
            Measured(at, sampling.logprobs, sampling.logprob_token_ids, sampling.searching)
            for at, sampling in found
            if sampling is not None and sampling.logprobs is not None
        ])  # fmt: skip

    def _prompts(
        self, slices: Sequence[Slice], rows: Integers, last: Integers, all_known: Known
    ) -> tuple[MeasuredPrompt, ...]:
        """Name the prompt tokens that can be judged in this step, unless there was output: then they were before."""
        told = []
        for piece, row, at in zip(slices, rows.tolist(), last.tolist(), strict=True):
            sampling = self._measuring.get(row)
            known, prompt = int(all_known.known[row]), int(all_known.prompt[row])
            if sampling is None or sampling.prompt_logprobs is None or known > prompt:
                continue
            first = max(piece.start, sampling.prompt_logprob_start)
            tokens = all_known.tokens[row, first + 1 : min(piece.start + piece.count + 1, prompt)].copy()
            if tokens.size:
                ids = tuple(candidates(sampling, first + 1 + index) for index in range(tokens.size))
                place = at - piece.count + 1 + first - piece.start
                told.append(MeasuredPrompt(piece.request, first + 1, place, tokens, sampling.prompt_logprobs, ids))
        return tuple(told)
