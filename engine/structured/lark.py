"""Lark grammars, as llguidance writes them, read as expressions of which one text each is known."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from engine.structured.expressions import Choice, Expression, Named, Repeat, Series, Text, Unknown
from engine.structured.regexes import Unreadable, read_regex
from engine.structured.scanner import Scanner

_SUFFIX: Final = re.compile(r'suffix[ \t]*=[ \t]*("(?:\\.|[^"\\])*")')
_HIDDEN: Final = re.compile(r"\bstop\b")
_ONE: Final = re.compile(r"<\[(\d+)(?:[-,][\d,-]*)?\]>")
_LEAST: Final = re.compile(r"\d+")


def read_lark(source: str, special: Mapping[str, int]) -> tuple[dict[str, Expression], list[Any]]:
    """Read a grammar: its rules, and the JSON schemas in it.

    Args:
        source: the grammar.
        special: tokens that stand for themselves, and are no text.

    Raises:
        Unreadable: It has something in it that is not read here.
    """
    reader = _Reader(source, special)
    return reader.rules(), reader.schemas


class _Reader(Scanner):
    def __init__(self, source: str, special: Mapping[str, int]) -> None:
        super().__init__(source)
        self._special = special
        self.schemas = list[Any]()

    def rules(self) -> dict[str, Expression]:
        """Read all of it."""
        found = dict[str, Expression]()
        while (ahead := self._ahead()) is not None:
            head = self._head()
            if head is not None:
                self._at = head.end()
                found[head[1]] = _with_options(self._choice(), head[2] or "")
            elif ahead["directive"] == "%ignore":
                self._at = ahead.end()
                self._choice()
            elif ahead["directive"] == "%llguidance":
                self._at = ahead.end()
                self._json()
            else:
                raise Unreadable(ahead[0])
        return found

    def _choice(self) -> Expression:
        parts = [self._series()]
        # of texts that must be of two kinds at once either may be one: what follows from it is tried
        while self._skip("|") or self._skip("&"):
            parts.append(self._series())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _series(self) -> Expression:
        parts = list[Expression]()
        while (ahead := self._ahead()) is not None and self._head() is None:
            if ahead["sign"] in {"|", "&", ")", "]"} or ahead["directive"] in {"%ignore", "%llguidance"}:
                break
            self._at = ahead.end()
            parts.append(self._repeated(self._atom(ahead)))
        return Series(tuple(parts))

    def _repeated(self, atom: Expression) -> Expression:
        while (ahead := self._ahead()) is not None and (times := ahead["times"]) and self._head() is None:
            self._at = ahead.end()
            number = _LEAST.match(times.lstrip("{~ "))
            atom = Repeat(atom, int(number[0]) if number else int(times == "+"))
        return atom

    def _atom(self, token: re.Match[str]) -> Expression:
        match token.lastgroup:
            case "any_case":
                return self._quoted(token["text"])
            case "flags":
                return Unknown() if "x" in token["flags"] else _regex(token["regex"][1:-1])
            case "special":
                return self._no_text(token[0])
            case "name":
                return Named(token[0])
            case "directive":
                return self._directive(token[0])
        return self._sign(token[0])

    def _quoted(self, quoted: str) -> Expression:
        text = _text(quoted)
        if self._skip(".."):
            self._needed()
        return text

    def _sign(self, sign: str) -> Expression:
        if sign == "~":
            self._atom(self._needed())
            return Unknown()
        if sign not in {"(", "["}:
            raise Unreadable(sign)
        inner = self._choice()
        if not self._skip(")" if sign == "(" else "]"):
            raise Unreadable("a group without an end")
        return inner if sign == "(" else Repeat(inner, 0)

    def _directive(self, name: str) -> Expression:
        if name not in {"%json", "%regex"}:
            raise Unreadable(name)
        found = self._json()
        if name == "%json":
            self.schemas.append(found)
        return Unknown()

    def _no_text(self, token: str) -> Expression:
        numbered = _ONE.fullmatch(token)
        number = int(numbered[1]) if numbered else self._special.get(token)
        return Unknown() if number is None else Text((number,))

    def _needed(self) -> re.Match[str]:
        """Take the next token."""
        ahead = self._ahead()
        if ahead is None:
            raise Unreadable("it ends too early")
        self._at = ahead.end()
        return ahead

    def _skip(self, sign: str) -> bool:
        ahead = self._ahead()
        if ahead is None or ahead["sign"] != sign:
            return False
        self._at = ahead.end()
        return True


def _with_options(body: Expression, options: str) -> Expression:
    if suffix := _SUFFIX.search(options):
        return Series((body, _text(suffix[1])))
    return Series((body, Unknown())) if _HIDDEN.search(options) else body


def _text(quoted: str) -> Expression:
    try:
        return Text(tuple(json.loads(quoted)))
    except ValueError as error:
        raise Unreadable(quoted) from error


def _regex(source: str) -> Expression:
    try:
        return read_regex(source)
    except Unreadable:
        return Unknown()
