"""Questions about the date and the time, and what to read off the clock's answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from infra.embedded.phrasebook import Phrasings, phrasings, read
from infra.embedded.sums import simple
from infra.embedded.world import Call, Turn, World


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask of the clock."""

    phrasings: Phrasings
    answer: Callable[[datetime], tuple[str, str]]
    """Gives the answer, and the part of it that matters."""


def _date(now: datetime) -> str:
    return f"{now:%A} {now.day} {now:%B %Y}"


def _said(template: str, part: Callable[[datetime], str]) -> Callable[[datetime], tuple[str, str]]:
    return lambda now: (template.format(part(now)), part(now))


_WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_BOOK: Final = read("moments")
_ANSWERS: Final[dict[str, Callable[[datetime], tuple[str, str]]]] = {
    "time": _said("It is {} UTC.", lambda now: f"{now:%H:%M}"),
    "date": _said("Today is {}.", _date),
    "day": _said("It is {}.", lambda now: f"{now:%A}"),
    "year": _said("The year is {}.", lambda now: f"{now.year}"),
    "month": _said("It is {}.", lambda now: f"{now:%B}"),
    "date_and_time": lambda now: (f"It is {_date(now)}, {now:%H:%M} UTC.", f"{now:%H:%M}"),
    "tomorrow": _said("Tomorrow is {}.", lambda now: f"{now + timedelta(days=1):%A}"),
}
_QUESTIONS: Final = tuple(Question(phrasings(_BOOK[name]), answer) for name, answer in _ANSWERS.items())
_WEIGHTS: Final = (6, 5, 5, 3, 3, 2, 2)
_WITH_SUM: Final = phrasings(_BOOK["with_sum"])


def clock_turn(world: World) -> Turn:
    """Ask one thing of the clock."""
    question = world.chance.choices(_QUESTIONS, _WEIGHTS)[0]
    spoken = world.say(question.phrasings, weekday=world.pick(_WEEKDAYS))
    if not world.has("clock"):
        return Turn("no such tool", spoken, "I have no clock here.", one_of=("no clock", "cannot"))
    call = Call("clock", {})
    results = world.call(call)
    answer, part = question.answer(world.toolbox.now)
    return Turn("clock", spoken, answer, (call,), results, needs=(part,))


def clock_and_sum_turn(world: World) -> Turn:
    """Ask a sum and the time at once; the sum is called first."""
    asked = simple(world)
    calls = (Call("calculator", {"expression": asked.expression}), Call("clock", {}))
    results = world.call(*calls)
    world.result = results[0]
    time = f"{world.toolbox.now:%H:%M}"
    answer = f"That is {results[0]}, and it is {time} UTC."
    return Turn(
        "sum and clock", world.say(_WITH_SUM, sum=asked.spoken), answer, calls, results, needs=(results[0], time)
    )
