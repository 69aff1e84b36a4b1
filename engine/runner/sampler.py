"""From a step's states to its tokens, and to all that is told of them.

What is done to logits is launched and not waited for; what the host has to know of it is put together when it has come
there. Only these wait for a device: a processor of another package, which may look at what it likes, and what is told
to a search and to answers that keep to a grammar, which is made up when their tokens are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor

from engine.kernels.batch import Integers, on_device
from engine.logits import Wanted, adjust, barren, reads_output
from engine.logprobs import LogprobsMode, Measured, MeasuredPrompt, Telling, measure, measure_search, telling, told
from engine.models.decoder import Decoder
from engine.processors import Processors
from engine.runner.constraints import NO_TOKEN, Constraints
from engine.runner.draws import draw_for, unsound_for
from engine.runner.flat import FlatBatch
from engine.runner.landing import Numbers
from engine.sampling import Choices, drawn_from
from schemas.generation import TokenLogprobs

_JUDGED: Final = 64
"""Positions of a prompt whose logits are held at once."""
_NOT_FINITE: Final = "the model computed a number that is not finite"


@dataclass(slots=True)
class Drawn:
    """What was launched for a batch."""

    batch: FlatBatch
    sent: dict[str, Tensor] = field(default_factory=dict)
    """What the host has to know, by name."""
    problems: dict[int, str] = field(default_factory=dict)
    """Slices that cannot go on, as far as that is known."""
    looked_at: list[int] = field(default_factory=list)
    """Sampled rows in which there may be no token left."""
    told: list[int] = field(default_factory=list)
    """Sampled rows that something is told of, and how many tokens."""
    counts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """How many tokens are told of each position, by what is told."""
    late: list[tuple[Measured, Tensor, Tensor]] = field(default_factory=list)
    """What is told once the tokens are there: of which logits [vocabulary], as they were and as they are drawn from."""

    def tell(self, name: str, parts: Sequence[Telling]) -> None:
        """Send what is told of some positions."""
        self.counts[name] = tuple(count for part in parts for count in part.counts)
        self.sent[f"{name}.names"] = torch.cat([part.names for part in parts])
        self.sent[f"{name}.values"] = torch.cat([part.values for part in parts])
        self.sent[f"{name}.ranks"] = torch.cat([part.ranks for part in parts])

    def read(self, name: str, home: Numbers) -> list[TokenLogprobs]:
        """Say it."""
        return told(self.counts[name], *(home[f"{name}.{kind}"] for kind in ("names", "values", "ranks")))


@dataclass(frozen=True, slots=True)
class Made:
    """What came of a batch, in the plan's order."""

    tokens: Integers
    """[sampled slices]."""
    changed: frozenset[str] = frozenset()
    """Requests that got another token than was drawn."""
    problems: dict[int, str] = field(default_factory=dict)
    """Slices that cannot go on, and why."""
    broken: tuple[int, ...] = ()
    """Those whose numbers are not finite."""
    logprobs: tuple[tuple[int, TokenLogprobs], ...] = ()
    """(index among the sampled slices, what is told)."""
    prompts: tuple[tuple[str, int, tuple[TokenLogprobs, ...]], ...] = ()
    whole: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()


class Sampler:
    """Draws the tokens of a model's requests."""

    def __init__(self, model: Decoder, constraints: Constraints, told_as: LogprobsMode) -> None:
        self._model = model
        self._constraints = constraints
        self._told_as: LogprobsMode = told_as
        self._processors = Processors()
        self._draw, self._unsound = draw_for(model.ops), unsound_for(model.ops)

    @staticmethod
    def reading(batch: FlatBatch) -> list[int]:
        """List the sampled rows whose logits are changed by what their output is."""
        return [one.row for one in batch.wanted if reads_output(one.sampling)]

    def launch(self, batch: FlatBatch, hidden: Tensor) -> Drawn:
        """Launch all that is to be done with a batch's states [tokens, hidden]."""
        drawn = Drawn(batch)
        # what is not finite shows in the logits, where those of all tokens are wanted
        if len(batch.heads) != len(hidden):
            _put(drawn, "unsound", self._unsound(hidden))
        if batch.sampled.any():
            self._launch_draw(drawn, hidden)
        for at, one in enumerate(batch.prompts):
            drawn.tell(f"prompt {at}", self._judge(hidden, one))
        return drawn

    def _launch_draw(self, drawn: Drawn, hidden: Tensor) -> None:
        batch = drawn.batch
        logits = self._model.logits(hidden.index_select(0, batch.heads))
        _put(drawn, "unfit", self._unsound(logits))
        before = [logits[one.row].clone() for one in batch.measured]
        theirs = self._adjust(logits, batch) if batch.wanted else {}
        kept, problems = self._constraints.restrict(logits, batch)
        drawn.problems = theirs | problems
        drawn.looked_at = sorted({*kept, *(one.row for one in batch.wanted)})
        if drawn.looked_at:
            drawn.sent["barren"] = barren(logits, drawn.looked_at)
        tokens = self._draw(logits, batch.choices)
        if batch.forced:
            rows, given = on_device(np.array(batch.forced, np.int64).T, tokens.device).unbind()
            tokens.index_copy_(0, rows, given)
        drawn.sent["tokens"] = tokens
        self._launch_told(drawn, before, logits)

    def _launch_told(self, drawn: Drawn, before: Sequence[Tensor], logits: Tensor) -> None:
        """Measure those sampled rows of which something is to be told; `before` are their logits, [vocabulary]."""
        batch, parts = drawn.batch, list[Telling]()
        names = [piece.request for piece in batch.slices if piece.sample] if batch.measured else []
        for one, raw in zip(batch.measured, before, strict=True):
            shown = raw
            if self._told_as.startswith("processed") and not one.searching:
                shown = _processed(logits, batch.choices, one.row)
            if one.searching or self._constraints.follows(names[one.row]):
                drawn.late.append((one, shown, logits[one.row]))
                continue
            token = drawn.sent["tokens"][one.row : one.row + 1]
            parts.append(telling(shown[None], token, one.best, [one.ids], self._told_as))
            drawn.told.append(one.row)
        if parts:
            drawn.tell("told", parts)

    def _adjust(self, logits: Tensor, batch: FlatBatch) -> dict[int, str]:
        """Change logits as requests want them; say which slices cannot go on, and why."""
        theirs: dict[int, str] = {}

        def by_plugins(logits: Tensor, wanted: Sequence[Wanted]) -> None:
            theirs.update(self._processors.apply(logits, wanted))

        adjust(logits, batch.wanted, by_plugins)
        places = np.flatnonzero(batch.sampled).tolist()
        return {places[row]: problem for row, problem in theirs.items()}

    def _judge(self, hidden: Tensor, one: MeasuredPrompt) -> list[Telling]:
        """Tell what the model makes of some tokens of a prompt, few at a time: logits are wide."""
        parts, tokens = [], on_device(one.tokens.astype(np.int64), hidden.device)
        for at in range(0, len(one.tokens), _JUDGED):
            some = tokens[at : at + _JUDGED]
            logits = self._model.logits(hidden[one.first + at : one.first + at + len(some)])
            parts.append(telling(logits, some, one.best, one.ids[at : at + _JUDGED], self._told_as))
        return parts

    def finish(self, drawn: Drawn, home: Numbers, left: set[int]) -> Made:
        """Put together what came of a batch; `left` are slices whose requests have failed since."""
        batch = drawn.batch
        broken = _broken(batch, home.get("unsound"), home.get("unfit"))
        problems, slices = dict[int, str](), np.flatnonzero(batch.sampled).tolist()
        for row, none in zip(drawn.looked_at, home.get("barren", ()), strict=True):
            if none:
                problems[slices[row]] = NO_TOKEN
        problems |= drawn.problems
        tokens = home.get("tokens", np.empty(0, np.int64))
        said = self._searched(drawn)
        before = tokens.copy() if drawn.late or self._constraints.any else tokens
        followed = self._constraints.take(tokens, batch, {*problems, *broken, *left})
        said += [
            (one.row, measure(raw[None], [int(tokens[one.row])], one.best, [one.ids], self._told_as)[0])
            for one, raw, _ in drawn.late
            if not one.searching
        ]
        if drawn.told:
            said += zip(drawn.told, drawn.read("told", home), strict=True)
        return Made(
            tokens,
            frozenset(batch.slices[slices[row]].request for row in np.flatnonzero(before != tokens).tolist()),
            problems | followed.problems | dict.fromkeys(broken, _NOT_FINITE),
            tuple(broken),
            tuple(sorted(said, key=lambda one: one[0])),
            tuple(
                (one.request, one.position, tuple(drawn.read(f"prompt {at}", home)))
                for at, one in enumerate(batch.prompts)
            ),
            followed.whole,
            followed.closed,
        )

    def _searched(self, drawn: Drawn) -> list[tuple[int, TokenLogprobs]]:
        """Describe what could come at steps of searches, before anything is taken."""
        names = [piece.request for piece in drawn.batch.slices if piece.sample] if drawn.late else []
        found = []
        for one, raw, row in drawn.late:
            if one.searching:
                possible, certain = self._constraints.leading_on(names[one.row])
                found.append((one.row, measure_search(raw, row, int(row.argmax()), one.best, possible, certain)))
        return found


def _put(drawn: Drawn, name: str, tensor: Tensor | None) -> None:
    if tensor is not None:
        drawn.sent[name] = tensor


def _broken(batch: FlatBatch, unsound: Integers | None, unfit: Integers | None) -> list[int]:
    """Return the indices of slices with a hidden state [tokens] or logits [sampled] that are not finite."""
    if not any(rows is not None and rows.any() for rows in (unsound, unfit)):
        return []
    bad: Integers = np.empty(0, np.int64) if unsound is None else np.flatnonzero(unsound)
    heads = np.zeros(len(batch.slices), np.bool_)
    if unfit is not None:
        heads[batch.sampled] = unfit
    counts = [piece.count for piece in batch.slices]
    return [
        index
        for index, (last, count) in enumerate(zip(batch.last.tolist(), counts, strict=True))
        if heads[index] or ((bad > last - count) & (bad <= last)).any()
    ]


def _processed(logits: Tensor, choices: Choices, row: int) -> Tensor:
    """Give what a row's token is drawn from, [vocabulary]."""
    return drawn_from(logits[row][None], choices.among(np.arange(len(logits)) == row))[0]
