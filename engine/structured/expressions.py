"""Texts that a grammar lets come, as an expression, and the shortest rest of it from every place in it.

An expression says less than its grammar: of a class of characters it knows one, and of a part that it cannot read
nothing. What follows from it is tried before it is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

Pieces = tuple[str | int, ...]
"""Single characters, and tokens that are no text."""

_LONGEST: Final = 1000
"""Pieces of a rest."""
_COPIES: Final = 32
"""Copies of a part that must be repeated, of which each is a place of its own."""
_NESTED: Final = 2
"""How often a rule stands within itself."""
_VISITS: Final = 4000
MOST_RESTS: Final = 400


@dataclass(frozen=True, slots=True)
class Text:
    """One piece after another."""

    pieces: Pieces


@dataclass(frozen=True, slots=True)
class Series:
    """One part after another."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several parts."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A part again and again."""

    part: Expression
    least: int


@dataclass(frozen=True, slots=True)
class Named:
    """A part that is told elsewhere, perhaps with itself in it."""

    name: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A part of which nothing is known."""


Expression = Text | Series | Choice | Repeat | Named | Unknown
Rules = Mapping[str, Expression]


@dataclass(frozen=True, slots=True)
class Rest:
    """What comes after a place."""

    pieces: Pieces = ()
    whole: bool = True
    """Whether it leads to the end, and not just to a part of which nothing is known."""


Size = Callable[[Pieces], int]
"""How long something is, in what is to be saved."""


def rests(rules: Rules, start: str, size: Size = len) -> list[Pieces]:
    """Name the shortest way to the end of a rule from every place in it, as far as the rules within it are known."""
    return _Places(rules, _NESTED, size).of(rules[start])


def rests_within(rules: Rules, size: Size = len) -> list[Pieces]:
    """Name the shortest way to the end of the rule that it is in, or to what is not known there, from every place."""
    places = _Places(rules, 0, size)
    return sorted({rest for one in rules.values() for rest in places.of(one, only_whole=False)}, key=len)


@dataclass(slots=True)
class _Places:
    rules: Rules
    nested: int
    size: Size
    shortest: dict[str, Pieces | None] = field(default_factory=dict)
    known: dict[int, Pieces | None] = field(default_factory=dict)
    """Of expressions, by identity, what is the shortest."""
    visits: int = 0

    def __post_init__(self) -> None:
        for _ in range(len(self.rules) + 1):  # rules that stand in rules become known one after another
            self.known.clear()
            before, self.shortest = self.shortest, {name: self._short(one) for name, one in self.rules.items()}
            if before == self.shortest:
                break

    def of(self, expression: Expression, only_whole: bool = True) -> list[Pieces]:
        """List what is found, the shortest first."""
        self.visits = 0
        found = set[Pieces]()
        for rest in self._from(expression, Rest(), ()):
            if rest.pieces and len(rest.pieces) <= _LONGEST and (rest.whole or not only_whole):
                found.add(rest.pieces)
            if len(found) >= MOST_RESTS:
                break
        return sorted(found, key=len)

    def _short(self, expression: Expression) -> Pieces | None:
        """Give the shortest text of an expression; None if it is not known, or very long."""
        if id(expression) not in self.known:
            found = self._shortest(expression)
            self.known[id(expression)] = found if found is None or len(found) <= _LONGEST else None
        return self.known[id(expression)]

    def _shortest(self, expression: Expression) -> Pieces | None:
        match expression:
            case Text(pieces):
                return pieces
            case Series(parts):
                every = [self._short(part) for part in parts]
                return None if None in every else tuple(piece for one in every if one for piece in one)
            case Choice(parts):
                some = [one for part in parts if (one := self._short(part)) is not None]
                return min(some, key=self.size, default=None) if len(some) > 1 else next(iter(some), None)
            case Repeat(part, least):
                once = self._short(part) if least else ()
                return None if once is None or len(once) * least > _LONGEST else once * least
            case Named(name):
                return self.shortest.get(name)
            case Unknown():
                return None

    def _before(self, expression: Expression, after: Rest, times: int = 1) -> Rest:
        """Give what comes after a place before an expression."""
        short = self._short(expression) if times else ()
        return Rest((), False) if short is None else Rest(short * times + after.pieces, after.whole)

    def _from(self, expression: Expression, after: Rest, within: tuple[str, ...]) -> Iterator[Rest]:
        """Give the rest from every place in an expression that something comes after."""
        self.visits += 1
        if self.visits > _VISITS:
            return
        match expression:
            case Text(pieces):
                for at in range(len(pieces)):
                    yield Rest(pieces[at:] + after.pieces, after.whole)
            case Named(name) if within.count(name) < self.nested and name in self.rules:
                yield from self._from(self.rules[name], after, (*within, name))
            case Named():
                yield self._before(expression, after)
            case _:
                for part, following in self._parts(expression, after):
                    yield from self._from(part, following, within)

    def _parts(self, expression: Expression, after: Rest) -> Iterator[tuple[Expression, Rest]]:
        """Give the parts of an expression, each with what comes after it."""
        match expression:
            case Series(parts):
                for part in reversed(parts):
                    yield part, after
                    after = self._before(part, after)
            case Choice(parts):
                for part in parts:
                    yield part, after
            case Repeat(part, least):
                for times in range(max(1, min(least, _COPIES))):
                    yield part, self._before(part, after, times)
