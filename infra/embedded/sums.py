"""Questions of arithmetic, and what the calculator should be asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from infra.embedded.phrasebook import Phrasings, phrasings, read
from infra.embedded.toolbox import calculate
from infra.embedded.world import Call, Turn, World, split_of

_BOOK: Final = read("sums")
_OPENERS: Final = phrasings(_BOOK["openers"])
_PAIRS: Final = phrasings(_BOOK["pairs"])
_AGAIN: Final = phrasings(_BOOK["again"])
_NO_CALCULATOR: Final = phrasings(_BOOK["no_calculator"])
_SPOKEN: Final = {shape: phrasings(entry) for shape, entry in _BOOK["spoken"].items()}
_WHOLE: Final = {shape: phrasings(entry) for shape, entry in _BOOK["whole"].items()}
_ONWARD: Final = {shape: phrasings(entry) for shape, entry in _BOOK["onward"].items()}
_WEIGHTS: Final = {"{a} + {b}": 5, "{a} - {b}": 5, "{a} * {b}": 6, "{a} / {b}": 5, "{b} * {a} / 100": 3}
_SHAPES: Final = tuple(_SPOKEN)
_SHAPE_WEIGHTS: Final = tuple(_WEIGHTS.get(shape, 1) for shape in _SHAPES)
_WHOLE_SHAPES: Final = tuple(_WHOLE)
_ONWARD_SHAPES: Final = tuple(_ONWARD)
_ANSWERS: Final = ("That is {r}.", "The answer is {r}.", "That makes {r}.")
_PAIR_SHAPES: Final = ("{a} + {b}", "{a} - {b}", "{a} * {b}", "{a} / {b}", "{b} * {a} / 100")
_PAIR_SPOKEN: Final = {
    "{a} + {b}": ("{a} + {b}", "{a} plus {b}"),
    "{a} - {b}": ("{a} - {b}", "{a} minus {b}"),
    "{a} * {b}": ("{a} * {b}", "{a} times {b}"),
    "{a} / {b}": ("{a} / {b}", "{a} divided by {b}"),
    "{b} * {a} / 100": ("{a}% of {b}", "{a} percent of {b}"),
}
_WORDS: Final[list[str]] = _BOOK["words"]["all"]


@dataclass(frozen=True, slots=True)
class Sum:
    """An expression for the calculator and how it was said."""

    expression: str
    spoken: str


def sum_turn(world: World) -> Turn:
    """Ask one sum."""
    return _answered(world, "sum", _sum(world))


def onward_turn(world: World) -> Turn | None:
    """Go on from the last result, where there is one worth going on from."""
    last = world.result
    if last is None or len(last) > 9:
        return None
    while True:
        shape = world.pick(_ONWARD_SHAPES)
        number = _number(world)
        expression = shape.format(r=last, a=number)
        if split_of(expression) == world.split and _fits(expression):
            spoken = world.say(_ONWARD[shape], a=number)
            return _answered(world, "onward sum", Sum(expression, spoken))


def pair_turn(world: World) -> Turn:
    """Ask two sums at once."""
    one, two = _plain(world), _plain(world)
    calls = (Call("calculator", {"expression": one.expression}), Call("calculator", {"expression": two.expression}))
    results = world.call(*calls)
    return Turn(
        skill="two sums",
        user=world.say(_PAIRS, one=one.spoken, two=two.spoken),
        calls=calls,
        results=results,
        answer=f"They are {results[0]} and {results[1]}.",
        needs=results,
    )


def again_turn(world: World) -> Turn | None:
    """Ask for the last result once more; no tool is needed."""
    if world.result is None:
        return None
    return Turn("result again", world.say(_AGAIN), f"It was {world.result}.", needs=(world.result,))


def zero_turn(world: World) -> Turn:
    """Divide by zero."""
    number = world.own(lambda: _number(world))
    shape = world.pick(("{a} / 0", "{a} / 0", "{a} % 0"))
    spoken = {"{a} / 0": ("{a} / 0", "{a} divided by 0", "{a} divided by zero", "{a}/0"), "{a} % 0": ("{a} modulo 0",)}
    text = world.pick(spoken[shape]).format(a=number)
    return failing(world, Sum(shape.format(a=number), world.say(_OPENERS, sum=text)))


def large_turn(world: World) -> Turn:
    """Ask for a number that the calculator will not make."""
    while True:
        left, right = str(world.chance.randint(2, 9999)), str(world.chance.randint(17, 999))
        expression = f"{left} ** {right}"
        if split_of(expression) == world.split and calculate(expression).startswith("error"):
            spoken = world.pick((f"{left} to the power of {right}", f"{left} ** {right}", f"{left}^{right}"))
            return failing(world, Sum(expression, world.say(_OPENERS, sum=spoken)))


def failing(world: World, asked: Sum) -> Turn:
    """A sum whose result is an error, which the answer passes on."""
    call = Call("calculator", {"expression": asked.expression})
    results = world.call(call)
    reason = results[0].removeprefix("error: ")
    return Turn("sum that fails", asked.spoken, f"That did not work: {reason}.", (call,), results, needs=(reason,))


def without_calculator_turn(world: World) -> Turn:
    """Ask a sum where no calculator is on offer."""
    spoken = _sum(world).spoken if world.likely(0.7) else world.say(_NO_CALCULATOR, sum=_plain(world).spoken)
    return Turn("no such tool", spoken, "I have no calculator here.", one_of=("no calculator", "cannot"))


def simple(world: World) -> Sum:
    """Draw a plain sum of two numbers for a question that asks more than a sum."""
    return _plain(world)


def _answered(world: World, skill: str, asked: Sum) -> Turn:
    call = Call("calculator", {"expression": asked.expression})
    results = world.call(call)
    world.result = results[0]
    return Turn(skill, asked.spoken, world.pick(_ANSWERS).format(r=results[0]), (call,), results, needs=results)


def _sum(world: World) -> Sum:
    while True:
        if world.likely(0.2):
            shape = world.pick(_WHOLE_SHAPES)
            phrasings = _WHOLE[shape]
            opener = None
        else:
            shape = world.chance.choices(_SHAPES, _SHAPE_WEIGHTS)[0]
            phrasings = Phrasings(("{sum}",), ("{sum}",))
            opener = world.pick(_SPOKEN[shape].of(world.split))
        values = _values(world, shape)
        expression = shape.format(**values)
        if split_of(expression) != world.split or not _fits(expression):
            continue
        spoken_values = {key: _as_said(world, number) for key, number in values.items()}
        if opener is None:
            return Sum(expression, world.say(phrasings, **spoken_values))
        return Sum(expression, world.say(_OPENERS, sum=opener.format(**spoken_values)))


def _plain(world: World) -> Sum:
    while True:
        shape = world.pick(_PAIR_SHAPES)
        values = _values(world, shape)
        expression = shape.format(**values)
        if split_of(expression) == world.split and _fits(expression):
            return Sum(expression, world.pick(_PAIR_SPOKEN[shape]).format(**values))


def _fits(expression: str) -> bool:
    result = calculate(expression)
    return not result.startswith("error") and "e" not in result and len(result) <= 13


def _values(world: World, shape: str) -> dict[str, str]:
    if shape == "{a} ** 0.5":
        return {"a": _number(world).lstrip("-"), "b": "1", "c": "1"}
    if "**" in shape:
        power = world.chance.randint(2, 9)
        return {"a": str(world.chance.randint(2, 999 if power < 4 else 20)), "b": str(power), "c": "1"}
    if "100" in shape:
        share = world.pick((str(world.chance.randint(1, 99)), str(5 * world.chance.randint(1, 20))))
        return {"a": share, "b": _number(world).lstrip("-"), "c": "1"}
    drawn = {"a": _number(world), "b": _number(world), "c": _number(world)}
    if shape == "{a} / {b}" and world.likely(0.3):
        # results such as 95.66666667 and 0.1257575758, whose digits are the hardest to copy
        drawn["b"] = world.pick(("3", "6", "7", "9", "11", "12", "15", "33", "66", "90", "99", "37"))
    return drawn


def _number(world: World) -> str:
    chance = world.chance
    digits = chance.choices((1, 2, 3, 4, 5, 6), (20, 32, 22, 13, 7, 6))[0]
    number = chance.randint(10 ** (digits - 1), 10**digits - 1)
    if chance.random() < (0.14 if world.split == "train" else 0.1):
        # runs of one digit are the hardest to copy: 99999, 1000, 5500
        lead = chance.randint(1, digits)
        return (str(number)[:1] * lead).ljust(digits, chance.choice("0" + str(number)[-1]))
    kind = chance.random()
    if kind < 0.12 and digits < 5:
        places = chance.choice((1, 1, 2, 2, 3))
        return f"{number}.{chance.randint(0, 10**places - 1):0{places}d}"
    if kind < 0.17:
        return f"-{number}"
    return f"{number // 100 * 100}" if kind < 0.22 and number >= 100 else str(number)


def _as_said(world: World, number: str) -> str:
    if number.isdigit() and int(number) <= 20 and world.likely(0.3):
        return _WORDS[int(number)]
    if number.isdigit() and int(number) >= 1000 and world.likely(0.06):
        return f"{int(number):,}"
    return number
