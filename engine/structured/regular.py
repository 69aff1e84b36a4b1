"""Lark grammars in which no rule holds itself, as one regular expression.

Where a text stands inside of another one (an argument of a call, with JSON's escapes), a grammar cannot follow it; a
regular expression can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final, Literal

from llguidance import LLMatcher

from engine.errors import BadRequest
from engine.structured.grammar import GrammarError
from engine.structured.regexes import Unreadable
from engine.structured.scanner import Scanner
from engine.text.patterns import anchored

MOST: Final = 1 << 13
"""Characters of an expression: rules that hold others several times grow fast, and whoever waits reads them."""
MOST_SOURCE: Final = 1 << 14
"""Characters of a grammar."""

_MOST_TOLD: Final = 500

_START: Final = "start"
_IMPORT: Final = re.compile(
    r"[ \t]+common(?:\.(?P<one>\w+)(?:[ \t]*->[ \t]*(?P<alias>\w+))?|[ \t]*\((?P<some>[\w, \t]+)\))"
)
_TIMES: Final = re.compile(r"~\s*(\d+)(?:\.\.(\d+))?")
_FLAGS: Final = "ims"
_META: Final = frozenset(r"\.+*?()|[]{}^$#&-~/")
_BLANKS: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_NUMBER: Final = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_COMMON: Final[Mapping[str, str]] = {
    "DIGIT": "[0-9]",
    "HEXDIGIT": "[0-9a-fA-F]",
    "INT": "[0-9]+",
    "SIGNED_INT": "[-+]?[0-9]+",
    "DECIMAL": r"(?:[0-9]+\.[0-9]*|\.[0-9]+)",
    "FLOAT": r"(?:[0-9]+[eE][-+]?[0-9]+|(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)",
    "NUMBER": _NUMBER,
    "SIGNED_NUMBER": f"[-+]?{_NUMBER}",
    "ESCAPED_STRING": r'"(?:[^"\\\n]|\\.)*"',
    "LCASE_LETTER": "[a-z]",
    "UCASE_LETTER": "[A-Z]",
    "LETTER": "[a-zA-Z]",
    "WORD": "[a-zA-Z]+",
    "CNAME": "[_a-zA-Z][_a-zA-Z0-9]*",
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(?:\r?\n)+",
}
"""The terminals of Lark's own `common` that are imported."""


def expression_of(syntax: Literal["lark", "regex"], definition: str, field: str) -> str:
    """Write a grammar as a regular expression of the same texts.

    Raises:
        BadRequest: it is none, or it cannot be one; `field` is what whoever wrote it calls it.
    """
    try:
        return regex_of_lark(definition) if syntax == "lark" else whole_regex(definition)
    except GrammarError as error:
        mend = "give one without what is named, or let any text do"
        raise BadRequest(field, f"{error}: {mend}") from error


def regex_of_lark(source: str) -> str:
    """Write a grammar as a regular expression of the same texts.

    Raises:
        GrammarError: It is none, a rule of it holds itself, or it has something in it that is not read here.
    """
    if len(source) > MOST_SOURCE:
        raise GrammarError(f"it has more than {MOST_SOURCE} characters")
    try:
        return _checked(_Reader(source).expression())
    except Unreadable as error:
        raise GrammarError(f"this cannot be read, or not as a regular expression: {error}") from error
    except RecursionError as error:
        raise GrammarError("it nests too deep") from error


def whole_regex(source: str) -> str:
    """Check a regular expression, as Rust writes them.

    Raises:
        GrammarError: It is none.
    """
    if len(source) > MOST:
        raise GrammarError(f"it has more than {MOST} characters")
    # alone first: what closes a group that it has not opened would be of another form when it is anchored
    _validate(LLMatcher.grammar_from_regex(source))
    return _checked(source)


def _checked(source: str) -> str:
    if len(source) > MOST:
        raise GrammarError(f"as a regular expression this has more than {MOST} characters")
    # as it is compiled where it binds an answer: by then nobody could be told
    shape = {"type": "string", "pattern": anchored(source)}
    _validate(LLMatcher.grammar_from_json_schema(json.dumps(shape)))
    return source


def _validate(grammar: str) -> None:
    if problem := LLMatcher.validate_grammar(grammar):
        raise GrammarError(problem[:_MOST_TOLD].strip())


class _Reader(Scanner):
    """Reads the rules as expressions, each where it is needed first."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self._rules: dict[str, int] = {}
        """Where each begins."""
        self._known: dict[str, str] = {}
        self._open: list[str] = []
        """Rules that are being read."""

    def expression(self) -> str:
        """Write the whole grammar."""
        while (token := self._ahead()) is not None:
            head = self._head()
            if head is not None:
                if head[2]:
                    raise Unreadable(f"options of a rule: {head[2]}")
                self._rules[head[1]] = self._at = head.end()
            elif token["directive"] == "%import":
                self._at = token.end()
                self._imported()
            elif token["directive"] is not None:
                raise Unreadable(token[0])
            else:
                self._at = token.end()
        if _START not in self._rules:
            raise Unreadable(f"there is no rule {_START!r}")
        return self._named(_START)

    def _imported(self) -> None:
        found = _IMPORT.match(self._source, self._at)
        if found is None:
            raise Unreadable("only terminals of `common` are imported")
        self._at = found.end()
        for name in [found["one"]] if found["one"] else found["some"].replace(",", " ").split():
            if name not in _COMMON:
                raise Unreadable(f"common.{name}")
            self._known[found["alias"] or name] = _COMMON[name]

    def _named(self, name: str) -> str:
        """Give what a name stands for, as one piece."""
        if name in self._open:
            raise Unreadable(f"{name!r} holds itself")
        if name not in self._known:
            if name not in self._rules:
                raise Unreadable(f"there is no rule {name!r}")
            before, self._at = self._at, self._rules[name]
            self._open.append(name)
            self._known[name] = self._choice()
            if (left := self._ahead()) is not None and self._head() is None and left["directive"] is None:
                raise Unreadable(left[0])
            self._open.pop()
            self._at = before
        return f"(?:{self._known[name]})"

    def _choice(self) -> str:
        ways = [self._series()]
        while (token := self._ahead()) is not None and token["sign"] == "|" and self._head() is None:
            self._at = token.end()
            ways.append(self._series())
        return self._bounded("|", ways)

    def _series(self) -> str:
        parts, size = list[str](), 0
        while (token := self._ahead()) is not None and self._head() is None:
            if token["sign"] in {"|", ")", "]"} or token["directive"] is not None:
                break
            self._at = token.end()
            parts.append(self._times(self._part(token)))
            size += len(parts[-1])
            if size > MOST:
                break
        return self._bounded("", parts)

    def _bounded(self, between: str, parts: list[str]) -> str:
        """Join parts that stay within bounds."""
        if sum(map(len, parts)) > MOST:
            raise Unreadable(f"it comes to more than {MOST} characters")
        return between.join(parts)

    def _part(self, token: re.Match[str]) -> str:
        match token.lastgroup:
            case "any_case":
                return self._quoted(token)
            case "flags":
                return _flagged(token["regex"][1:-1].replace(r"\/", "/"), token["flags"])
            case "name" if not token[0].startswith("@"):
                return self._named(token[0])
            case "sign" if token[0] in {"(", "["}:
                inner, end = self._choice(), self._ahead()
                if end is None or end[0] != (")" if token[0] == "(" else "]"):
                    raise Unreadable("a group without an end")
                self._at = end.end()
                return f"(?:{inner})" if token[0] == "(" else f"(?:{inner})?"
        raise Unreadable(token[0])

    def _quoted(self, token: re.Match[str]) -> str:
        text = _text(token["text"])
        after = self._ahead()
        if after is None or after["sign"] != "..":
            return _flagged(_escaped(text), "i" if token["any_case"] else "")
        self._at = after.end()
        end = self._ahead()
        last = "" if end is None or end["text"] is None else _text(end["text"])
        if end is None or len(text) != 1 or len(last) != 1 or token["any_case"]:
            raise Unreadable("a range is from one character to another")
        self._at = end.end()
        return f"[{_escaped(text)}-{_escaped(last)}]"

    def _times(self, part: str) -> str:
        while (token := self._ahead()) is not None and (times := token["times"]) and self._head() is None:
            self._at = token.end()
            if counted := _TIMES.fullmatch(times):
                times = f"{{{counted[1]},{counted[2]}}}" if counted[2] else f"{{{counted[1]}}}"
            elif times.startswith("{,"):
                times = f"{{0{times[1:]}"
            part = f"(?:{part}{times})"
        return part


def _flagged(source: str, flags: str) -> str:
    if more := set(flags) - set(_FLAGS):
        raise Unreadable(f"the flag {min(more)!r}")
    return f"(?{flags}:{source})"


def _text(quoted: str) -> str:
    try:
        text: str = json.loads(quoted)
    except ValueError as error:
        raise Unreadable(quoted) from error
    return text


def _escaped(text: str) -> str:
    return "".join(f"\\{char}" if char in _META else _BLANKS.get(char, char) for char in text)
