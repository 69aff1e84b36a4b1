"""Generates recorded requests again, each alone, and finds the first that comes out otherwise.

A request's tokens are a function of weights, prompt, parameters and the kernels' profile: not of who was computed
beside it, how its prompt was cut, or how often it had to give way. So what was recorded in company comes out alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec

from engine.core.scheduler import Scheduler
from engine.core.transcript import Place, Transcript
from engine.engine import Engine
from engine.generator import NAME, Uptime
from engine.runner.executor import InlineExecutor
from engine.runner.model_runner import ModelRunner
from schemas.generation import FinishReason, Refused, Submit, TokenLogprobs

_ANY_NUMBER: Final = 1 << 62
_ENDED: Final = "nothing"
_AHEAD: Final = 2
"""Tokens that may be recorded behind the end of an answer: of steps that were planned before it was known."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a record and what is made today part first."""

    place: Place
    """The step that says otherwise."""
    position: int
    """Of the token in prompt and answer together."""
    index: int
    """Of the token in the answer; below 0 in the prompt."""
    what: str
    """`token`, or `logprobs` where the token is the same and what was told of it is not."""
    recorded: str
    made: str


@dataclass(slots=True)
class Made:
    """What came of a request today."""

    tokens: list[int] = field(default_factory=list)
    judged: dict[int, TokenLogprobs] = field(default_factory=dict)
    """By position."""
    finish: FinishReason | None = None
    problem: str = ""


class Regenerator:
    """One model, and a scheduler that has one request at a time."""

    def __init__(self, runner: ModelRunner) -> None:
        limits = msgspec.structs.replace(runner.limits, most_numbers=_ANY_NUMBER, max_in_flight=1)
        self._engine = Engine(Scheduler(limits, NAME), InlineExecutor(runner), Uptime())
        self._asked = 0

    def again(self, transcript: Transcript) -> Made:
        """Generate as many tokens as are recorded, or fewer if the answer ends before."""
        assert transcript.prompt is not None
        sampling, given, made = transcript.sampling, transcript.given, Made(list(transcript.given))
        self._asked += 1  # a scheduler begins nothing twice
        name = f"{NAME}-{self._asked}"
        known = tuple(TokenLogprobs((token,), (0.0,), 1) for token in given)  # what they were is of no consequence
        prompt = transcript.prompt
        submit = Submit(name, prompt, sampling, NAME, NAME, read_cache=False, output=given, logprobs=known)
        answer = self._engine.add(submit)
        if isinstance(answer, Refused):
            made.finish, made.problem = "error", answer.message
            return made
        first = len(transcript.prompt)
        while made.finish is None and len(made.tokens) < transcript.count:
            for event in self._engine.step():
                made.judged |= {
                    sampling.prompt_logprob_start + 1 + at: one for at, one in enumerate(event.prompt_logprobs)
                }
                start = len(given) or event.start  # a search takes one step, and knows what was told before it
                made.judged |= {first + start + at: one for at, one in enumerate(event.logprobs)}
                made.tokens += event.tokens
                made.finish, made.problem = event.finish, event.problem
        if made.finish is None:
            self._engine.abort(submit.request)
        return made


def difference(transcript: Transcript, made: Made) -> Difference | None:
    """Compare a record with what came of it today, token by token and bit by bit.

    What was drawn behind an answer's end, before the scheduler knew of it, is no part of it.
    """
    prompt = len(transcript.prompt or ())
    for position in range(prompt + max(transcript.count, 1)):
        index = position - prompt
        found = _token(transcript, made, index) if index >= 0 else None
        told = transcript.judged.get(position, ())
        now = made.judged.get(position)
        if found is None and (index < 0 or index < len(made.tokens)):
            found = next(
                ((one.place, "logprobs", _text(one.told), _text(now)) for one in told if _text(one.told) != _text(now)),
                None,
            )
        if found is not None:
            place, what, recorded, today = found
            return Difference(place, position, index, what, recorded, today)
    return None


def _token(transcript: Transcript, made: Made, index: int) -> tuple[Place, str, str, str] | None:
    """Compare one token of the answer; an answer that broke off has none where the record has one."""
    recorded = transcript.drawn.get(index, ())
    if index < len(made.tokens):
        now = made.tokens[index]
        return next(((one.place, "token", str(one.token), str(now)) for one in recorded if one.token != now), None)
    behind = made.finish != "error" and index < len(made.tokens) + _AHEAD
    if behind or not recorded:
        return None
    why = f" ({made.problem or made.finish})"
    return recorded[0].place, "token", str(recorded[0].token), _ENDED + why


def _text(told: TokenLogprobs | None) -> str:
    return _ENDED if told is None else msgspec.json.encode(told).decode()
