"""What a tool call is written with, step by step: the small language that formats are described in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from engine.text import literals
from engine.text.reading import Reading, decoded, given_object, plain
from engine.text.source import Broken, Ended, Marks, Waiting
from engine.text.values import properties, typed, types

_LONGEST_NAME: Final = 256
_MOST_MARKS: Final = 32
"""So often may a value hold the mark that ends values, lest an answer of nothing else is read again and again."""
_NAME: Final = re.compile(r"[^\s\"'`(){}\[\]<>,=]+")


class Step(Protocol):
    """A part of how a call is written."""

    def marks(self) -> Iterator[str]:
        """Name the texts that it looks for."""

    def read(self, reading: Reading) -> Waiting[None]:
        """Read it.

        Raises:
            Broken: something else is there.
        """


@dataclass(frozen=True, slots=True)
class Space:
    """White space, if there is any."""

    def marks(self) -> Iterator[str]:
        """Name nothing."""
        yield from ()

    def read(self, reading: Reading) -> Waiting[None]:
        """Read it."""
        yield from reading.source.space()


@dataclass(frozen=True, slots=True)
class Mark:
    """A text that must be there."""

    text: str

    def marks(self) -> Iterator[str]:
        """Name it."""
        yield self.text

    def read(self, reading: Reading) -> Waiting[None]:
        """Read it."""
        yield from reading.source.need(reading.spell(self.text))


@dataclass(frozen=True, slots=True)
class Maybe:
    """A text that may be there."""

    text: str

    def marks(self) -> Iterator[str]:
        """Name it."""
        yield self.text

    def read(self, reading: Reading) -> Waiting[None]:
        """Read it, if it is."""
        yield from reading.source.took(reading.spell(self.text))


@dataclass(frozen=True, slots=True)
class End:
    """The text a call ends with; where the answer ends before it, the call is whole all the same."""

    text: str

    def marks(self) -> Iterator[str]:
        """Name it."""
        yield self.text

    def read(self, reading: Reading) -> Waiting[None]:
        """Read it."""
        if (yield from reading.source.char()):
            yield from reading.source.need(reading.spell(self.text))


@dataclass(frozen=True, slots=True)
class Name:
    """The tool's name, up to a mark; the mark is read with it if it is not `stay`."""

    ends: tuple[str, ...]
    stay: bool = False

    def marks(self) -> Iterator[str]:
        """Name the ends."""
        yield from self.ends

    def read(self, reading: Reading) -> Waiting[None]:
        """Read it."""
        ends = Marks([reading.spell(end) for end in self.ends])
        text, end = yield from reading.source.until(ends, _LONGEST_NAME)
        reading.source.at += 0 if self.stay else len(end)
        reading.name = plain(text).strip()
        if not _NAME.fullmatch(reading.name):
            raise Broken


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something up to a mark that says nothing, and the mark."""

    end: str

    def marks(self) -> Iterator[str]:
        """Name the end."""
        yield self.end

    def read(self, reading: Reading) -> Waiting[None]:
        """Read it."""
        _, end = yield from reading.source.until(Marks([reading.spell(self.end)]), _LONGEST_NAME)
        reading.source.at += len(end)


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments, as a JSON object."""

    def marks(self) -> Iterator[str]:
        """Name nothing."""
        yield from ()

    def read(self, reading: Reading) -> Waiting[None]:
        """Read them: the call has all it needs."""
        yield from reading.stream(reading.name)


@dataclass(frozen=True, slots=True)
class Calls:
    """A call as a JSON object, `{"name": ..., "arguments": {...}}`, or several in an array."""

    arguments: str = "arguments"
    """What models call the arguments."""
    many: bool = False
    """Whether they write an array, be it of one."""

    def marks(self) -> Iterator[str]:
        """Name nothing."""
        yield from ()

    def read(self, reading: Reading) -> Waiting[None]:
        """Read them."""
        source = reading.source
        yield from source.space()
        many = yield from source.took("[")
        while True:
            yield from source.space()
            yield from self._call(reading)
            reading.keep()
            yield from source.space()
            if not many:
                return
            if not (yield from source.took(",")):
                yield from source.need("]")
                return

    def _call(self, reading: Reading) -> Waiting[None]:
        """Read one; once its arguments are there, it is of no account how the object ends."""
        source, name, held, told = reading.source, "", "", False
        yield from source.need("{")
        while True:
            yield from source.space()
            key = decoded((yield from source.key()))
            yield from source.space()
            if key == "name":
                name = decoded((yield from source.json()))
            elif told or key not in {"arguments", "parameters"}:
                yield from source.json()
            elif name:
                told = yield from self._arguments(reading, name)
            else:
                held = held or given_object((yield from source.json()))
            yield from source.space()
            if not (yield from source.took(",")):
                break
        if told:
            yield from source.took("}")
            return
        yield from source.need("}")
        reading.add(name, held or "{}")

    def _arguments(self, reading: Reading, name: str) -> Waiting[bool]:
        """Read arguments; say whether there are any."""
        if (yield from reading.source.ahead("{")):
            yield from reading.stream(name)
            return True
        written = given_object((yield from reading.source.json()))
        if written:
            reading.add(name, written)
        return bool(written)


@dataclass(frozen=True, slots=True)
class Ahead:
    """A JSON object whose first key is one of some: what cannot become a call need not be held back until it ends."""

    keys: tuple[str, ...]

    def marks(self) -> Iterator[str]:
        """Name nothing."""
        yield from ()

    def read(self, reading: Reading) -> Waiting[None]:
        """Look, and read nothing."""
        source, begin = reading.source, reading.source.at
        yield from source.need("{")
        yield from source.space()
        for key in self.keys:
            if (yield from source.ahead(f'"{key}"')):
                source.at = begin
                return
        raise Broken


@dataclass(frozen=True, slots=True)
class Pairs:
    """The arguments, each with its key between two marks and its value between two; the values are bare text.

    A value may hold the mark that ends values: it ends where a key or the end of the call follows. Of two with the same
    key the first counts.
    """

    key: tuple[str, str]
    value: tuple[str, str]
    end: str
    lines: bool = False
    """Whether a line end on either side of a value does not belong to it."""

    def marks(self) -> Iterator[str]:
        """Name all of them."""
        yield from (*self.key, *self.value, self.end)

    def read(self, reading: Reading) -> Waiting[None]:
        """Read them, and the end."""
        source, spell, schema = reading.source, reading.spell, reading.schemas.get(reading.name, {})
        while True:
            yield from source.space()
            if (yield from source.took(spell(self.end))):
                reading.end()
                return
            yield from source.need(spell(self.key[0]))
            key, end = yield from source.until(Marks([spell(self.key[1])]), _LONGEST_NAME)
            source.at += len(end)
            if self.value[0]:
                yield from source.space()
                yield from source.need(spell(self.value[0]))
            name = plain(key).strip()
            shape = properties(schema).get(name)
            if name in reading.keys:
                # the first one is told already
                yield from self._value(reading)
            elif types(shape, schema) <= {"string"}:
                yield from self._text(reading, name)
            else:
                begin = source.place
                yield from self._value(reading)
                text = plain(source.between(begin, source.sure))
                if self.lines:
                    text = text.removeprefix("\n").removesuffix("\n")
                reading.member(name, typed(text, shape, schema))
            reading.keep()

    def _text(self, reading: Reading, name: str) -> Waiting[None]:
        """Read a value that is a text whatever it looks like, and tell it as it comes."""
        reading.member_begins(name, '"')
        if self.lines:
            yield from reading.source.took("\n")
        reading.keep()
        try:
            for _ in self._value(reading):
                self._tell(reading)
                yield
        except Ended:
            self._tell(reading)
            raise
        self._tell(reading)
        reading.teller.write('"')

    def _tell(self, reading: Reading) -> None:
        """Tell as much of a text as certainly belongs to it."""
        end = reading.source.sure
        if self.lines and reading.source.between(end - 1, end) == "\n":
            end -= 1
        reading.tell_text(end)

    def _value(self, reading: Reading) -> Waiting[None]:
        """Read a value and the mark after it; so much of it as belongs to it is `sure`."""
        source, marks, found = reading.source, Marks([reading.spell(self.value[1])]), 0
        follow = [reading.spell(follows) for follows in (self.end, self.key[0])]
        while reading.told or found < _MOST_MARKS:
            _, mark = yield from source.until(marks)
            found, end = found + 1, source.place
            source.at += len(mark)
            yield from source.space()
            for follows in follow:
                if (yield from source.ahead(follows)):
                    return
            if source.ended and any(follows.startswith(source.text[source.at :]) for follows in follow):
                raise Ended
            source.place = end + 1
        raise Broken


@dataclass(frozen=True, slots=True)
class PythonCalls:
    """Calls as Python writes them, `f(a=1), g(b="x")`, up to a mark; commas or white space between them."""

    end: str

    def marks(self) -> Iterator[str]:
        """Name the end."""
        yield self.end

    def read(self, reading: Reading) -> Waiting[None]:
        """Read them, and the end."""
        source = reading.source
        while True:
            reading.name = yield from literals.name(source)
            yield from source.space()
            yield from source.need("(")
            yield from self._arguments(reading)
            reading.end()
            yield from source.space()
            if not (yield from source.took(",")):
                yield from source.took(";")
            yield from source.space()
            if (yield from source.took(reading.spell(self.end))):
                return

    def _arguments(self, reading: Reading) -> Waiting[None]:
        source = reading.source
        while True:
            yield from source.space()
            if (yield from source.took(")")):
                return
            key = yield from literals.name(source)
            yield from source.space()
            yield from source.need("=")
            yield from source.space()
            value = yield from literals.value(source)
            if key not in reading.keys:
                reading.member(key, value)
            reading.keep()
            yield from literals.parted(source, ")")


@dataclass(frozen=True, slots=True)
class Either:
    """The first of several ways that goes."""

    ways: tuple[tuple[Step, ...], ...]

    def marks(self) -> Iterator[str]:
        """Name those of all ways."""
        for way in self.ways:
            for step in way:
                yield from step.marks()

    def read(self, reading: Reading) -> Waiting[None]:
        """Try one after the other."""
        begin = reading.source.at
        for way in self.ways:
            reading.source.at = begin
            try:
                for step in way:
                    yield from step.read(reading)
            except Broken:
                if reading.told:
                    raise
                continue
            return
        raise Broken
