"""Regular expressions, as Rust and JSON schemas write them, read as expressions of which one text each is known."""

from __future__ import annotations

import re
from typing import Final

from engine.structured.expressions import Choice, Expression, Repeat, Series, Text

Ranges = list[tuple[int, int]]

_NOTHING: Final = Text(())
_QUANTIFIER: Final = re.compile(r"(?:[*+?]|\{(\d*)(?:,(\d*))?\})[?+]?")
_GROUP: Final = re.compile(r"\?(?:P?<\w+>|[imsUu-]*:)")
_FLAGS: Final = re.compile(r"\?[imsUu-]+\)")
_CODE: Final = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|[xuU]\{([0-9a-fA-F]+)\}")
_CLASS: Final = re.compile(r"[pP]\{\^?(\w+)\}|[pP](\w)")
_SIGNS: Final = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}
_STANDING: Final = {".": "a"}
_PLACES: Final = "bBAzZ"
"""Escapes that stand for no character."""
_KINDS: Final[dict[str, Ranges]] = {
    "d": [(48, 57)],
    "w": [(97, 122), (65, 90), (48, 57), (95, 95)],
    "s": [(32, 32), (9, 13)],
}
_PROPERTIES: Final = {"L": "w", "Ll": "w", "Alphabetic": "w", "N": "d", "Nd": "d", "White_Space": "s"}
_UPPER: Final[Ranges] = [(65, 90)]
_PREFERRED: Final = "a0A " + "".join(map(chr, range(33, 127))) + "\n\té"
"""Characters that stand for a class they are in, the first of them."""


class Unreadable(Exception):
    """An expression with something in it that is not read here; it may be a good one."""


def read_regex(source: str) -> Expression:
    """Read one.

    Raises:
        Unreadable: It has something in it that is not read here.
    """
    reader = _Reader(source)
    found = reader.choice()
    if reader.at < len(source):
        raise Unreadable(source[reader.at :])
    return found


class _Reader:
    def __init__(self, source: str) -> None:
        self._source = source
        self.at = 0

    def choice(self) -> Expression:
        """Read alternatives."""
        parts = [self._series()]
        while self._skip("|"):
            parts.append(self._series())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _series(self) -> Expression:
        parts = list[Expression]()
        while self.at < len(self._source) and self._source[self.at] not in "|)":
            parts.append(self._repeated(self._atom()))
        return Series(tuple(parts))

    def _repeated(self, atom: Expression) -> Expression:
        while found := self._match(_QUANTIFIER):
            least = int(found[1] or 0) if found[0][0] == "{" else int(found[0][0] == "+")
            atom = Repeat(atom, least)
        return atom

    def _atom(self) -> Expression:
        char = self._next()
        if char == "(":
            return self._group()
        if char in "^$" or (char == "\\" and self._source[self.at : self.at + 1] in [*_PLACES]):
            self.at += char == "\\"
            return _NOTHING
        if char in _STANDING:
            char = _STANDING[char]
        elif char == "[":
            char = self._class()
        elif char == "\\":
            char = _standing_for(*self._escape())
        return Text((char,))

    def _group(self) -> Expression:
        if self._match(_FLAGS):
            return _NOTHING
        if self._source[self.at : self.at + 1] == "?" and not self._match(_GROUP):
            raise Unreadable("what a group is for")
        found = self.choice()
        if not self._skip(")"):
            raise Unreadable("a group without an end")
        return found

    def _class(self) -> str:
        """Read a class of characters, and choose one of them."""
        negated, ranges, first = self._skip("^"), Ranges(), True
        while first or not self._skip("]"):
            first = False
            low, odd = self._member()
            if odd:
                raise Unreadable("the opposite of a class, within one")
            ranges += low if not self._has_range(low) else [(low[0][0], self._member()[0][0][0])]
        return _standing_for(ranges, negated)

    def _has_range(self, low: Ranges) -> bool:
        single = len(low) == 1 and low[0][0] == low[0][1]
        return single and self._source[self.at + 1 : self.at + 2] != "]" and self._skip("-")

    def _member(self) -> tuple[Ranges, bool]:
        if self._source[self.at : self.at + 2] in {"&&", "--", "~~"} or self._source[self.at : self.at + 1] == "[":
            raise Unreadable("classes within classes")
        char = self._next()
        return self._escape() if char == "\\" else ([(ord(char), ord(char))], False)

    def _escape(self) -> tuple[Ranges, bool]:
        """Read what comes after a backslash: characters, and whether all others are meant."""
        if code := self._match(_CODE):
            point = int(code[1] or code[2] or code[3], 16)
            return [(point, point)], False
        if named := self._match(_CLASS):
            name = named[1] or named[2]
            if name not in _PROPERTIES and name != "Lu":
                raise Unreadable(named[0])
            return (_UPPER if name == "Lu" else _KINDS[_PROPERTIES[name]]), named[0][0] == "P"
        char = self._next()
        if char.lower() in _KINDS:
            return _KINDS[char.lower()], char.isupper()
        if char.isalnum() and char not in _SIGNS:
            raise Unreadable(char)
        point = ord(_SIGNS.get(char, char))
        return [(point, point)], False

    def _next(self) -> str:
        if self.at >= len(self._source):
            raise Unreadable("it ends too early")
        self.at += 1
        return self._source[self.at - 1]

    def _skip(self, char: str) -> bool:
        found = self._source.startswith(char, self.at)
        self.at += found
        return found

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._source, self.at)
        self.at = found.end() if found else self.at
        return found


def _standing_for(ranges: Ranges, negated: bool) -> str:
    """Choose a character that is in some ranges, or in none of them."""
    for char in _PREFERRED:
        if any(low <= ord(char) <= high for low, high in ranges) != negated:
            return char
    if negated or not ranges:
        raise Unreadable("a class of rare characters")
    return chr(ranges[0][0])
