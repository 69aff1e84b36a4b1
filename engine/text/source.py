"""The text that comes in, and reading it: whoever reads waits for what is not there yet.

Readers are generators that yield where they need more text. What they return depends on the text alone, never on the
pieces it came in: a decision is made once no further text could change it.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

Waiting = Generator[None, None, T]
"""A reader: it yields for more text, and returns what it read."""

SPECIAL: Final = "\uf8f2"
"""Stands before the text of a special token, a private-use character that other text is freed of: what a model spells
out is never taken for the token."""

_SPACE: Final = re.compile(r"\s*")
_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f\ud800-\udfff]*')
_WORD: Final = re.compile(r"[-+.\w]*")
_LITERAL: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null")
_CLOSING: Final = {"{": "}", "[": "]"}
_DEEPEST: Final = 256
_ESCAPES: Final = frozenset('"\\/bfnrt')
_HEX: Final = frozenset("0123456789abcdefABCDEF")
_HIGH, _LOW, _BEYOND = 0xD800, 0xDC00, 0xE000
"""The first halves of characters from here on, the second from here on, and none any more."""


class Broken(Exception):
    """What is read is not what it was taken for."""


class Ended(Broken):
    """It may be the beginning of that, but nothing follows."""


class Marks:
    """Texts to look for; where several begin at the same place, the first in the list counts."""

    def __init__(self, marks: Sequence[str]) -> None:
        self.texts = tuple(dict.fromkeys(mark for mark in marks if mark))
        self._longest = max(map(len, self.texts), default=0)
        self._search = re.compile("|".join(map(re.escape, self.texts))).search

    def find(self, text: str, at: int, ended: bool) -> tuple[int, str]:
        """Look for the first mark from `at` on.

        Returns:
            Where it begins, and the mark. The mark is empty where there is none: up to that place there will be none.
        """
        match = self._search(text, at) if self.texts else None
        until, found = (len(text), "") if match is None else (match.start(), match.group())
        for begin in () if ended else range(max(len(text) - self._longest + 1, at), min(until + 1, len(text))):
            rest = text[begin:]
            earlier = self.texts if begin < until else self.texts[: self.texts.index(found)]
            if any(mark.startswith(rest) for mark in earlier):
                return begin, ""
        return until, found


class Source:
    """What has come of the text and is not done with."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        """Up to where it was read."""
        self.ended = False
        """Whether nothing more comes."""
        self.dropped = 0
        """So much of it was there before, and is done with."""
        self.sure = 0
        """Up to where what is read of a value belongs to it, whatever follows: a place from the text's beginning."""
        self._absent: dict[tuple[str, ...], int] = {}
        """Marks of which there is none up to the end, and from where on: what was opened often is not looked through as
        often for what would close it."""

    @property
    def place(self) -> int:
        """Up to where the text was read, from its beginning."""
        return self.dropped + self.at

    @place.setter
    def place(self, place: int) -> None:
        self.at = place - self.dropped

    def between(self, begin: int, end: int) -> str:
        """Give a part of the text, by places from its beginning."""
        return self.text[begin - self.dropped : end - self.dropped]

    def drop(self) -> None:
        """Forget what was read, once that is most of it: what is left is copied."""
        if 2 * self.at < len(self.text):
            return
        self.dropped += self.at
        self.text, self.at = self.text[self.at :], 0

    def char(self) -> Waiting[str]:
        """Give the next character without reading it; empty at the end."""
        while self.at >= len(self.text):
            if self.ended:
                return ""
            yield
        return self.text[self.at]

    def ahead(self, mark: str) -> Waiting[bool]:
        """Say whether `mark` is next, without reading it."""
        while True:
            rest = self.text[self.at : self.at + len(mark)]
            if rest == mark or self.ended or not mark.startswith(rest):
                return rest == mark
            yield

    def took(self, mark: str) -> Waiting[bool]:
        """Read `mark` if it is next; say whether it was."""
        if not (yield from self.ahead(mark)):
            return False
        self.at += len(mark)
        return True

    def need(self, mark: str) -> Waiting[None]:
        """Read `mark`.

        Raises:
            Broken: something else is there.
        """
        if not (yield from self.took(mark)):
            raise Ended if self.ended and mark.startswith(self.text[self.at :]) else Broken

    def run(self, pattern: re.Pattern[str]) -> Waiting[str]:
        """Read as far as a pattern goes that takes any number of characters, each by itself."""
        begin = self.at
        while True:
            found = pattern.match(self.text, self.at)
            assert found is not None
            self.at = found.end()
            if self.at < len(self.text) or self.ended:
                return self.text[begin : self.at]
            yield

    def space(self) -> Waiting[None]:
        """Read white space."""
        yield from self.run(_SPACE)

    def until(self, marks: Marks, most: int | None = None) -> Waiting[tuple[str, str]]:
        """Read up to a mark, without the mark; give the text and the mark.

        Raises:
            Broken: there is none, or none within `most` characters.
        """
        begin = self.at
        if self.ended and self.dropped + begin >= self._absent.get(marks.texts, self.dropped + len(self.text) + 1):
            raise Ended
        while True:
            found, mark = marks.find(self.text, self.at, self.ended)
            self.at = found
            self.sure = self.place
            if most is not None and found - begin > most:
                raise Broken
            if mark:
                return self.text[begin:found], mark
            if self.ended:
                self._absent[marks.texts] = self.dropped + begin
                raise Ended
            yield

    def json(self) -> Waiting[str]:
        """Read a JSON value; give its text.

        Raises:
            Broken: it is none, or the text ends before it does.
        """
        begin = self.place
        yield from self.value()
        return self.between(begin, self.place)

    def value(self) -> Waiting[None]:
        """Read a JSON value, and say on the way how much of it is `sure`.

        Raises:
            Broken: it is none, or the text ends before it does.
        """
        self.sure = self.place
        closing: list[str] = []
        while True:
            yield from self.space()
            char = yield from self.char()
            if char in _CLOSING and len(closing) < _DEEPEST:
                self.at += 1
                self.sure = self.place
                closing.append(_CLOSING[char])
                if not (yield from self._after_opening(closing)):
                    continue
            elif char == '"':
                yield from self.string()
            elif not _LITERAL.fullmatch((yield from self.run(_WORD))):
                raise Ended if self.at == len(self.text) else Broken
            self.sure = self.place
            if not (yield from self._after_value(closing)):
                return

    def _after_opening(self, closing: list[str]) -> Waiting[bool]:
        """Read on to the first value of an object or array; say whether it is empty, and closed again."""
        yield from self.space()
        if (yield from self.took(closing[-1])):
            closing.pop()
            return True
        if closing[-1] == "}":
            yield from self.key()
        return False

    def _after_value(self, closing: list[str]) -> Waiting[bool]:
        """Read on to the next value; say whether there is one."""
        while closing:
            yield from self.space()
            if (yield from self.took(closing[-1])):
                self.sure = self.place
                closing.pop()
                continue
            yield from self.need(",")
            self.sure = self.place
            if closing[-1] == "}":
                yield from self.space()
                yield from self.key()
            return True
        return False

    def key(self) -> Waiting[str]:
        """Read an object's key and the colon after it; give the key's text.

        Raises:
            Broken: it is none, or the text ends before it does.
        """
        begin = self.place
        yield from self.string()
        key = self.between(begin, self.place)
        yield from self.space()
        yield from self.need(":")
        self.sure = self.place
        return key

    def string(self) -> Waiting[None]:
        """Read a JSON string.

        Raises:
            Broken: it is none, or the text ends before it does.
        """
        yield from self.need('"')
        while True:
            for _ in self.run(_PLAIN):
                self.sure = self.place
                yield
            self.sure = self.place
            if (yield from self.took('"')):
                self.sure = self.place
                return
            yield from self._escape()

    def _escape(self) -> Waiting[None]:
        """Read what stands for a character; both halves of it, where it takes two."""
        code = yield from self._escaped()
        if _HIGH <= code < _LOW:
            code = yield from self._escaped()
            if not _LOW <= code < _BEYOND:
                raise Broken
        elif _LOW <= code < _BEYOND:
            raise Broken

    def _escaped(self) -> Waiting[int]:
        """Read one escape; give its number, if it has one."""
        yield from self.need("\\")
        digits = ""
        if (char := (yield from self._one())) == "u":
            for _ in range(4):
                digits += yield from self._one()
            if not _HEX.issuperset(digits):
                raise Broken
        elif char not in _ESCAPES:
            raise Broken
        return int(digits or "0", 16)

    def _one(self) -> Waiting[str]:
        """Read a character."""
        if not (char := (yield from self.char())):
            raise Ended
        self.at += 1
        return char
