"""Values as Python writes them, read as they come: what calls in Python's own form have for arguments."""

from __future__ import annotations

import re
from typing import Any, Final

from engine.text.source import Broken, Marks, Source, Waiting

_WORD: Final = re.compile(r"[-+.\w]*")
_NAME: Final = re.compile(r"[^\W\d][-.\w]*")
_WORDS: Final = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "\n": ""}
_HEX: Final = {"x": 2, "u": 4, "U": 8}
_INTEGER: Final = re.compile(r"[-+]?[0-9]{1,400}")
_NUMBER: Final = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_DEEPEST: Final = 64
_PAIR: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def name(source: Source) -> Waiting[str]:
    """Read a name, dots and dashes in it allowed.

    Raises:
        Broken: there is none.
    """
    found = yield from source.run(_WORD)
    if not _NAME.fullmatch(found):
        raise Broken
    return found


def value(source: Source, depth: int = 0) -> Waiting[Any]:
    """Read a value: text, number, list, tuple, dictionary, `True`, `None`, or how JSON spells those.

    Raises:
        Broken: there is none, or the text ends before it does.
    """
    char = yield from source.char()
    if depth > _DEEPEST:
        raise Broken
    if char in {'"', "'"}:
        return (yield from _text(source))
    if char in {"[", "("}:
        source.at += 1
        return (yield from _list(source, "]" if char == "[" else ")", depth + 1))
    if char == "{":
        source.at += 1
        return (yield from _dictionary(source, depth + 1))
    return _word((yield from source.run(_WORD)))


def _word(word: str) -> Any:
    if word in _WORDS:
        return _WORDS[word]
    if _INTEGER.fullmatch(word):
        return int(word)
    if not _NUMBER.fullmatch(word):
        raise Broken
    return float(word)


def _list(source: Source, end: str, depth: int) -> Waiting[list[Any]]:
    found: list[Any] = []
    while True:
        yield from source.space()
        if (yield from source.took(end)):
            return found
        found.append((yield from value(source, depth)))
        yield from parted(source, end)


def _dictionary(source: Source, depth: int) -> Waiting[dict[str, Any]]:
    found: dict[str, Any] = {}
    while True:
        yield from source.space()
        if (yield from source.took("}")):
            return found
        key = yield from value(source, depth)
        if not isinstance(key, str):
            raise Broken
        yield from source.space()
        yield from source.need(":")
        yield from source.space()
        found[key] = yield from value(source, depth)
        yield from parted(source, "}")


def parted(source: Source, end: str) -> Waiting[None]:
    """Read the comma after a value, unless `end` follows.

    Raises:
        Broken: neither is there.
    """
    yield from source.space()
    if not (yield from source.ahead(end)):
        yield from source.need(",")


def _text(source: Source) -> Waiting[str]:
    """Read a text in quotes, in three where it begins with three."""
    quote = yield from source.char()
    source.at += 1
    if (yield from source.took(quote * 2)):
        quote *= 3
    elif (yield from source.took(quote)):
        return ""
    found = ""
    marks = Marks((quote, "\\"))
    while True:
        plain, mark = yield from source.until(marks)
        source.at += len(mark)
        found += plain
        if mark == quote:
            return _PAIR.sub(_joined, found)
        found += yield from _escaped(source)


def _escaped(source: Source) -> Waiting[str]:
    char = yield from source.char()
    source.at += 1
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char in _HEX:
        digits = ""
        for _ in range(_HEX[char]):
            digits += yield from source.char()
            source.at += 1
        if not re.fullmatch("[0-9a-fA-F]+", digits) or int(digits, 16) > 0x10FFFF:
            raise Broken
        return chr(int(digits, 16))
    # the slash is JSON's
    return char if char in {"\\", "'", '"', "/"} else "\\" + char


def _joined(pair: re.Match[str]) -> str:
    """Give the one character that JSON's two escapes stand for."""
    return pair.group().encode("utf-16", "surrogatepass").decode("utf-16")
