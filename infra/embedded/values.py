"""Free values that people talk about: names, codes, colours, days, places, and words nobody has heard before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from infra.embedded.phrasebook import read
from infra.embedded.world import World

_WORDS: Final[dict[str, list[str]]] = read("words")


def word(world: World) -> str:
    """Make up a word: syllables, pieces of other words, or plain random letters."""
    chance = world.chance
    if chance.random() < 0.35:
        return "".join(chance.choices(_WORDS["pieces"], k=chance.choice((1, 1, 2, 2, 3))))
    if chance.random() < 0.12:
        return "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 7)))
    parts = [
        chance.choice(_WORDS["onsets"]) + chance.choice(_WORDS["vowels"]) for _ in range(chance.choice((1, 2, 2, 2, 3)))
    ]
    end = chance.choice(_WORDS["codas"]) if chance.random() < 0.6 or len(parts) == 1 else ""
    return "".join(parts) + end


def thing(world: World) -> str:
    """One of many plain nouns, or a made-up word."""
    return world.own(lambda: world.pick(_WORDS["things"]) if world.likely(0.5) else word(world))


def name(world: World) -> str:
    """A name, known or made up."""
    return world.own(lambda: world.pick(_WORDS["names"]) if world.likely(0.45) else word(world).capitalize())


def full_name(world: World) -> str:
    """A name with a title or a second name."""
    return world.pick(("Dr {}", "Mr {}", "Mrs {}", "Ms {}", "{} {}")).format(name(world), name(world))


def code(world: World) -> str:
    """Digits, or letters and digits, as on doors, tickets and plates."""
    chance = world.chance

    def digits(count: int) -> str:
        return "".join(chance.choices("0123456789", k=count))

    def letters(count: int) -> str:
        return "".join(chance.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=count))

    shapes = (
        lambda: digits(4),
        lambda: digits(chance.randint(3, 8)),
        lambda: f"{letters(2)}{digits(3)}",
        lambda: f"{letters(1)}{digits(2)}",
        lambda: f"{letters(2)}-{digits(4)}",
        lambda: f"{digits(3)}-{digits(4)}",
        lambda: f"{word(world)}{digits(2)}",
        lambda: digits(4),
        lambda: f"{word(world)}-{thing(world).capitalize()}-{digits(2)}",
        lambda: digits(1) * chance.randint(3, 6),
        lambda: f"{thing(world)}-{thing(world)}",
    )

    def draw() -> str:
        return chance.choice(shapes)()

    return world.own(draw)


def number(world: World) -> str:
    """A count of up to four digits."""
    return world.own(lambda: str(world.chance.randint(2, 10 ** world.chance.randint(1, 4))))


def colour(world: World) -> str:
    """A colour."""
    return world.own(lambda: world.pick(("", "", "dark ", "light ")) + world.pick(_WORDS["colours"]))


def time(world: World) -> str:
    """A time of day, as people write it."""
    chance = world.chance
    hour, minute = chance.randint(1, 23), chance.choice((0, 15, 30, 45, chance.randint(0, 59)))
    return chance.choice(
        (f"{hour}:{minute:02d}", f"{hour:02d}:{minute:02d}", f"{hour % 12 + 1} {chance.choice(('am', 'pm'))}")
    )


def day(world: World) -> str:
    """A weekday or a date, with or without a time."""
    chance = world.chance
    months = _WORDS["months"]

    def draw() -> str:
        date = chance.choice(
            (
                chance.choice(_WORDS["days"]),
                f"{chance.randint(1, 31)} {chance.choice(months)}",
                f"{chance.choice(months)} {chance.randint(1, 31)}",
            )
        )
        return f"{date} at {time(world)}" if chance.random() < 0.6 else date

    return world.own(draw)


def place(world: World) -> str:
    """Where a thing lies."""
    return world.own(
        lambda: world.pick(_WORDS["places"]).format(
            world.pick(_WORDS["furniture"]) if world.likely(0.8) else word(world)
        )
    )


def town(world: World) -> str:
    """A town, known or made up."""
    return world.own(lambda: world.pick(_WORDS["towns"]) if world.likely(0.5) else word(world).capitalize())


def food(world: World) -> str:
    """Something to eat."""
    return world.own(lambda: world.pick(_WORDS["foods"]) if world.likely(0.6) else word(world))


def _bought(world: World) -> str:
    return world.pick(_WORDS["nouns"]) if world.likely(0.4) else thing(world)


def phrase(world: World) -> str:
    """A few words of anything: things to buy, made-up words, or both."""

    def draw() -> str:
        words = [_bought(world) for _ in range(world.chance.randint(1, 3))]
        return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]

    return world.own(draw)


def secret(world: World) -> str:
    """A made-up word, plain or with digits behind it."""
    return world.own(lambda: thing(world) + (str(world.chance.randint(1, 99)) if world.likely(0.4) else ""))


KINDS: Final[dict[str, Callable[[World], str]]] = {
    make.__name__: make for make in (name, full_name, code, number, colour, day, place, town, food, phrase, secret)
}
