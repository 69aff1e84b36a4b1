"""One attempt to read calls: what is known so far, and what of it was told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from engine.text.calls import CallTeller
from engine.text.source import SPECIAL, Broken, Ended, Source, Waiting

_NO_CALL: Final = (msgspec.DecodeError, UnicodeEncodeError, RecursionError)


def plain(text: str) -> str:
    """Free what was read from the signs of special tokens."""
    return text.replace(SPECIAL, "")


def decoded(text: str) -> str:
    """Read a text in JSON's quotes.

    Raises:
        Broken: it is none.
    """
    try:
        return msgspec.json.decode(plain(text), type=str)
    except _NO_CALL as error:
        raise Broken from error


def given_object(text: str) -> str:
    """Give a call's arguments as JSON text: some models write them as a JSON string, or `null` where there are none."""
    if text.startswith('"'):
        return decoded(text)
    return "" if text == "null" else plain(text)


@dataclass(slots=True)
class Reading:
    """One attempt to read calls."""

    source: Source
    spell: Callable[[str], str]
    """How a mark of the format comes: special tokens with `SPECIAL` before them."""
    schemas: Mapping[str, Mapping[str, Any]]
    """Of the arguments, by tool."""
    teller: CallTeller
    known: bool = False
    """Whether only calls of tools that were offered are calls."""
    name: str = ""
    told: bool = False
    """Whether a call was told of: from there on it is no text any more."""
    kept: int = 0
    """Up to where the text went into calls that were told, from its beginning."""
    keys: set[str] = field(default_factory=set)
    """Arguments of the call under way that are not written as JSON."""

    def keep(self) -> None:
        """Whatever comes next, what was read so far is done with."""
        self.kept = self.source.place

    def begin(self, name: str) -> None:
        """Tell of a call.

        Raises:
            Broken: it has no name, or one that no tool has.
        """
        if not name or (self.known and name not in self.schemas):
            raise Broken
        self.keys.clear()
        self.teller.begin(name)
        self.told = True

    def add(self, name: str, arguments: str) -> None:
        """Take a call with arguments as JSON text.

        Raises:
            Broken: it has no name, or its arguments are no object.
        """
        try:
            msgspec.json.decode(arguments, type=dict[str, Any])
        except _NO_CALL as error:
            raise Broken from error
        self.begin(name)
        self.teller.write(arguments)
        self.teller.end()
        self.keep()

    def stream(self, name: str) -> Waiting[None]:
        """Read a call's arguments as a JSON object, and tell them as they come.

        Raises:
            Broken: they are none, or the text ends before they do.
        """
        source = self.source
        yield from source.need("{")
        source.at -= 1
        self.begin(name)
        self.keep()
        try:
            for _ in source.value():
                self.tell(source.sure)
                if source.sure == source.place:
                    source.drop()
                yield
        except Ended:
            self.tell(source.dropped + len(source.text))
            raise
        except Broken:
            self.tell(source.sure)
            raise
        self.tell(source.place)
        self.teller.end()

    def tell(self, until: int) -> None:
        """Tell what is there of arguments, as it is written."""
        self.teller.write(plain(self.source.between(self.kept, until)))
        self.kept = until

    def tell_text(self, until: int) -> None:
        """Tell what is there of a text that is written without quotes."""
        if until > self.kept:
            text = plain(self.source.between(self.kept, until))
            self.teller.write(json.dumps(text, ensure_ascii=False)[1:-1])
            self.kept = until

    def member(self, key: str, value: Any) -> None:
        """Tell an argument that is not written as JSON.

        Raises:
            Broken: JSON has no way to write it, or no tool is called so.
        """
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
            text.encode()
        except (ValueError, RecursionError) as error:
            raise Broken from error
        self.member_begins(key, text)

    def member_begins(self, key: str, text: str) -> None:
        """Tell an argument, or the beginning of one, as JSON text.

        Raises:
            Broken: no tool is called so.
        """
        if not self.teller.open:
            self.begin(self.name)
        parting = ", " if self.keys else "{"
        self.keys.add(key)
        self.teller.write(f"{parting}{json.dumps(key, ensure_ascii=False)}: {text}")

    def end(self) -> None:
        """There are no more arguments.

        Raises:
            Broken: no tool is called so.
        """
        if not self.teller.open:
            self.begin(self.name)
        self.teller.write("}" if self.keys else "{}")
        self.teller.end()
        self.keep()
