"""What a run came to, for Python programs: its text, what it took, and the object that was asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec

from actors.parameters import read_json, unfenced
from infra.errors import Misfit
from schemas.messages import Usage, added
from schemas.runs import Problem, RunFinished


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run came to."""

    text: str
    thread: str
    run: str
    usage: Usage
    """With that of answers which did not fit, and were mended; so with `steps` and `cost`."""
    steps: int
    cost: float | None = None
    """Of all that the usage is of, US dollars; None where a price is not known."""
    stopped_by: str = ""
    """The stop condition that ended it; empty when the model had said all."""
    output: Any = None
    """The text as the type that was asked for."""
    reasoning: str = ""
    """What the model thought before it said that, where it tells."""
    joined: bool = False
    """Whether `run` was under way and took the message along: with `when_busy="steer"`."""
    misfit: str = ""
    """Why `output` is the `fallback`: what of the text does not fit the type; empty where it fits."""

    def after(self, earlier: Answer) -> Answer:
        """Count what answers took that this one mends, too."""
        usage, cost = earlier.usage + self.usage, added(earlier.cost, self.cost)
        return replace(self, usage=usage, cost=cost, steps=earlier.steps + self.steps)


def typed(answer: Answer, output_type: Any, finished: RunFinished | None) -> Answer:
    """Read an answer as the type that was asked for.

    Raises:
        Misfit: it is not of that type.
    """
    if output_type is None:
        return answer
    try:
        return replace(answer, output=read_json(unfenced(answer.text), output_type))
    except msgspec.DecodeError as error:
        is_cut = finished is not None and finished.finish_reason == "length"
        cut = " (it was cut at `max_tokens`)" if is_cut else ""
        message = f"the answer is no {getattr(output_type, '__name__', output_type)}{cut}: {error}"
        raise Misfit(Problem(kind="invalid", message=message, field="output_type"), answer, str(error)) from error
