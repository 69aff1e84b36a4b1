"""The grammars of a worker's requests: who is kept to one, what its next token may be, and which it takes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from torch import Tensor

from engine.errors import BadRequest
from engine.kernels.batch import Integers
from engine.runner.flat import FlatBatch
from engine.structured.compiler import Grammars
from engine.structured.constraint import Constraint
from engine.structured.grammar import GrammarError
from engine.structured.masks import allow, restrict, rows_for
from schemas.steps import Arrival, Prepare

log = logging.getLogger(__name__)

_NO_GRAMMARS: Final = "this worker has no tokenizer, and so no grammars"
NO_TOKEN: Final = (
    "allowed_token_ids, bad_words, min_tokens and the grammar, if there is one, leave no token that could come next"
)


def _said(error: Exception) -> str:
    """Say what went wrong with a grammar; a backend may be anybody's, and hurts nobody but who asked for it."""
    if isinstance(error, GrammarError | BadRequest):
        return str(error)
    log.error("the grammar backend broke", exc_info=error)
    return f"the grammar backend broke: {error!r}"


class Followed(NamedTuple):
    """What became of the sampled tokens of a step."""

    whole: tuple[str, ...]
    """Requests whose documents are whole with theirs."""
    closed: tuple[str, ...]
    """Requests that got another one than was drawn, for their documents to end in time."""
    problems: dict[int, str]
    """Which slices cannot go on, and why."""


class Constraints:
    """One `Constraint` for each request that has a grammar."""

    def __init__(self, grammars: Grammars | None) -> None:
        self._grammars = grammars
        self._followed: dict[str, Constraint] = {}
        self._failed: dict[str, str] = {}

    def prepare(self, prepare: Prepare) -> str:
        """Compile a grammar, in whatever thread; say what is wrong with it, or nothing."""
        return _NO_GRAMMARS if self._grammars is None else self._grammars.prepare(prepare.structured)

    def clear(self) -> None:
        """Forget every request."""
        self._followed.clear()
        self._failed.clear()

    def forget(self, requests: Iterable[str]) -> None:
        """Forget some requests; unknown ones are ignored."""
        for request in requests:
            self._followed.pop(request, None)
            self._failed.pop(request, None)

    def admit(self, arrival: Arrival) -> None:
        """Take a request in, afresh if it is known, with the output that it has."""
        self.forget((arrival.request,))
        sampling, output = arrival.sampling, arrival.tokens[arrival.prompt_tokens :]
        if sampling.structured is None:
            if sampling.thinking_budget is not None:
                self._followed[arrival.request] = Constraint(None, sampling, output)
            return
        if self._grammars is None:
            self._failed[arrival.request] = _NO_GRAMMARS
            return
        try:
            self._followed[arrival.request] = Constraint(self._grammars.get(sampling.structured), sampling, output)
        except Exception as error:  # noqa: BLE001
            self._failed[arrival.request] = _said(error)

    @property
    def any(self) -> bool:
        """Whether any request is followed."""
        return bool(self._followed)

    def follows(self, request: str) -> bool:
        """Say whether what a request's next token is depends on those before it, and may be another than is drawn."""
        followed = self._followed.get(request)
        return followed is not None and followed.stage != "over"

    def restrict(self, logits: Tensor, batch: FlatBatch) -> tuple[list[int], dict[int, str]]:
        """Leave only what may come next in logits [sampled slices, vocabulary].

        Return the rows that keep to a grammar, and which slices cannot go on, and why. This comes after all that
        requests want changed about their logits: where a grammar lets an answer do nothing but end, it ends, whatever
        they want.
        """
        rows, problems = self._within(batch)
        if not rows:
            return [], problems
        bits, ending = rows_for(len(rows), logits.shape[1]), []
        for place, (row, index, followed) in enumerate(rows):
            try:
                if followed.mask(bits[place]):
                    ending.append((row, followed.ends))
            except Exception as error:  # noqa: BLE001
                problems[index] = _said(error)
        for row, ends in ending:
            allow(logits[row], ends)
        restrict(logits, [row for row, _, _ in rows], bits)
        return [row for row, _, _ in rows], problems

    def _within(self, batch: FlatBatch) -> tuple[list[tuple[int, int, Constraint]], dict[int, str]]:
        """List the sampled slices whose answers keep to a grammar now: row, index and constraint."""
        if not self._followed and not self._failed:
            return [], {}
        rows, problems, row = [], dict[int, str](), 0
        for index, piece in enumerate(batch.slices):
            if piece.request in self._failed:
                problems[index] = self._failed[piece.request]
            followed = self._followed.get(piece.request) if piece.sample else None
            if followed is not None and followed.masks:
                rows.append((row, index, followed))
            row += piece.sample
        return rows, problems

    def leading_on(self, request: str) -> tuple[Callable[[int], bool], int | None]:
        """Give what says whether a token leads on to an end of an answer, and one that does, if one is known."""
        followed = self._followed.get(request)
        if followed is None or followed.stage == "over":
            return (lambda token: True), None
        return followed.leads_on, followed.certain

    def take(self, tokens: Integers, batch: FlatBatch, broken: Iterable[int]) -> Followed:
        """Follow what was sampled, and change it in place where a document has to be brought to its end.

        `broken` slices are not looked at.
        """
        whole, closed, problems, skipped = list[str](), list[str](), dict[int, str](), set(broken)
        if not self._followed:
            return Followed((), (), {})
        places = zip((index for index, piece in enumerate(batch.slices) if piece.sample), tokens.tolist(), strict=True)
        for row, (index, token) in enumerate(places):
            request = batch.slices[index].request
            followed = self._followed.get(request)
            if followed is None or followed.stage == "over" or index in skipped:
                continue
            try:
                taken = followed.take(token)
            except Exception as error:  # noqa: BLE001
                problems[index] = _said(error)
                continue
            tokens[row] = taken.token
            if taken.whole:
                whole.append(request)
            if taken.closed:
                closed.append(request)
        return Followed(tuple(whole), tuple(closed), problems)
