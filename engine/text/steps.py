"""What a tool call is written with, step by step: the small language that formats are described in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from engine.text import literals
from engine.text.parts import ParsedCall
from engine.text.source import SPECIAL, Broken, Marks, Source, Waiting
from engine.text.values import properties, typed

_LONGEST_NAME: Final = 256
_MOST_MARKS: Final = 32
"""So often may a value hold the mark that ends values, lest an answer of nothing else is read again and again."""
_NAME: Final = re.compile(r"[^\s\"'`(){}\[\]<>,=]+")


_ABSENT: Final = msgspec.Raw(b"")


class _Written(msgspec.Struct):
    """A call as a JSON object."""

    name: str
    arguments: msgspec.Raw = _ABSENT
    parameters: msgspec.Raw = _ABSENT


@dataclass(slots=True)
class Reading:
    """One attempt to read calls."""

    source: Source
    spell: Callable[[str], str]
    """How a mark of the format comes: special tokens with `SPECIAL` before them."""
    schemas: Mapping[str, Mapping[str, Any]]
    """Of the arguments, by tool."""
    calls: list[ParsedCall] = field(default_factory=list)
    name: str = ""

    def add(self, name: str, arguments: str) -> None:
        """Take a call with arguments as JSON text.

        Raises:
            Broken: it has no name, or its arguments are no object.
        """
        try:
            msgspec.json.decode(arguments, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            raise Broken from error
        if not name:
            raise Broken
        self.calls.append(ParsedCall(name, arguments))

    def add_values(self, name: str, values: Mapping[str, Any]) -> None:
        """Take a call with arguments that were not written as JSON.

        Raises:
            Broken: JSON has no way to write them.
        """
        try:
            arguments = json.dumps(values, ensure_ascii=False, allow_nan=False)
        except (ValueError, RecursionError) as error:
            raise Broken from error
        self.add(name, arguments)


class Step(Protocol):
    """A part of how a call is written."""

    def marks(self) -> Iterator[str]:
        """Name the texts that it looks for."""

    def read(self, reading: Reading) -> Waiting[None]:
        """Read it.

        Raises:
            Broken: something else is there.
        """


def plain(text: str) -> str:
    """Free what was read from the signs of special tokens."""
    return text.replace(SPECIAL, "")


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
        reading.add(reading.name, plain((yield from reading.source.json())))


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
        text = plain((yield from reading.source.json()))
        try:
            many = text.startswith("[")
            for call in msgspec.json.decode(text if many else f"[{text}]", type=list[_Written]):
                # some models write `null` where there are none
                written = (bytes(call.arguments).decode(), bytes(call.parameters).decode())
                arguments = next((text for text in written if text not in {"", "null"}), "{}")
                if arguments.startswith('"'):
                    # some models write the object as a JSON string
                    arguments = msgspec.json.decode(arguments, type=str)
                reading.add(call.name, arguments)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            raise Broken from error
        if not reading.calls:
            raise Broken


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

    A value may hold the mark that ends values: it ends where a key or the end of the call follows.
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
        values: dict[str, Any] = {}
        while True:
            yield from source.space()
            if (yield from source.took(spell(self.end))):
                reading.add_values(reading.name, values)
                return
            yield from source.need(spell(self.key[0]))
            key, end = yield from source.until(Marks([spell(self.key[1])]), _LONGEST_NAME)
            source.at += len(end)
            if self.value[0]:
                yield from source.space()
                yield from source.need(spell(self.value[0]))
            text = plain((yield from self._value(reading)))
            if self.lines:
                text = text.removeprefix("\n").removesuffix("\n")
            name = plain(key).strip()
            values[name] = typed(text, properties(schema).get(name), schema)

    def _value(self, reading: Reading) -> Waiting[str]:
        """Read a value and the mark after it."""
        source, begin, marks = reading.source, reading.source.at, Marks([reading.spell(self.value[1])])
        for _ in range(_MOST_MARKS):
            _, mark = yield from source.until(marks)
            end = source.at
            source.at += len(mark)
            yield from source.space()
            for follows in (self.end, self.key[0]):
                if (yield from source.ahead(reading.spell(follows))):
                    return source.text[begin:end]
            source.at = end + 1
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
            name = yield from literals.name(source)
            yield from source.space()
            yield from source.need("(")
            reading.add_values(name, (yield from self._arguments(source)))
            yield from source.space()
            if not (yield from source.took(",")):
                yield from source.took(";")
            yield from source.space()
            if (yield from source.took(reading.spell(self.end))):
                return

    def _arguments(self, source: Source) -> Waiting[dict[str, Any]]:
        found: dict[str, Any] = {}
        while True:
            yield from source.space()
            if (yield from source.took(")")):
                return found
            key = yield from literals.name(source)
            yield from source.space()
            yield from source.need("=")
            yield from source.space()
            found[key] = yield from literals.value(source)
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
            reading.calls.clear()
            try:
                for step in way:
                    yield from step.read(reading)
            except Broken:
                continue
            return
        raise Broken
