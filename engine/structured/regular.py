"""Lark grammars as one regular expression.

Where a text stands inside of another one (an argument of a call, with JSON's escapes), a grammar cannot follow it; a
regular expression can. Rules that hold themselves are written out as deep as there is room: the texts are of the
grammar all the same, those that nest deeper are not among them.
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

DEEPEST: Final = 40
"""How many rules that hold themselves stand within one another, at most: expressions nest no deeper."""
_TRIES: Final = 3
"""How many of the deepest forms are tried, where what reads expressions takes one for too large."""

_MOST_TOLD: Final = 500

_START: Final = "start"
_IMPORT: Final = re.compile(
    r"[ \t]+common(?:\.(?P<one>\w+)(?:[ \t]*->[ \t]*(?P<alias>\w+))?|[ \t]*\((?P<some>[\w, \t]+)\))"
)
_TIMES: Final = re.compile(r"~\s*(\d+)(?:\.\.(\d+))?")
_NONE: Final = re.compile(r"\{0+\D")
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
    """Write a grammar as a regular expression of the same texts, as deep as they nest where a rule holds itself.

    Raises:
        GrammarError: It is none, a rule of it never ends, or it has something in it that is not read here.
    """
    if len(source) > MOST_SOURCE:
        raise GrammarError(f"it has more than {MOST_SOURCE} characters")
    try:
        *shallower, deepest = _Reader(source).expressions()
        while True:
            try:
                return _checked(deepest)
            except GrammarError:
                if not shallower:
                    raise
                deepest = shallower.pop()
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


class _TooLong(Unreadable):
    """What it comes to has too many characters."""


class _Reader(Scanner):
    """Reads the rules as expressions, each where it is needed first; None is what never ends at this depth."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self._rules: dict[str, int] = {}
        """Where each begins."""
        self._common: dict[str, str] = {}
        """What is imported."""
        self._known: dict[tuple[str, int], str | None] = {}
        """By name, and how many rules that hold themselves may stand within."""
        self._depth = 0
        self._loops = frozenset[str]()
        """Rules that hold themselves."""

    def expressions(self) -> list[str]:
        """Write the whole grammar: as deep as there is room, and before that some that are not as deep."""
        self._begin()
        if _START not in self._rules:
            raise Unreadable(f"there is no rule {_START!r}")
        self._loops = self._found_loops()
        found = list[str]()
        for depth in range(1, (DEEPEST if self._loops else 1) + 1):
            self._depth = depth
            try:
                made = self._named(_START)
            except _TooLong:
                if not found:
                    raise
                break
            if made is not None:
                found = [*found[1 - _TRIES :], made]
        if not found:
            raise Unreadable(f"{min(self._loops)!r} holds itself, and never ends")
        return found

    def _begin(self) -> None:
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

    def _found_loops(self) -> frozenset[str]:
        """Find the rules that hold themselves, and those between two such: leave out whatever leads to none, or comes
        from none."""
        held = {name: self._names_in(at) & self._rules.keys() for name, at in self._rules.items()}
        holders: dict[str, set[str]] = {name: set() for name in held}
        for name, names in held.items():
            for one in names:
                holders[one].add(name)
        for ahead, behind in ((held, holders), (holders, held)):
            leaving = [name for name, names in ahead.items() if not names]
            while leaving:
                gone = leaving.pop()
                for one in behind.pop(gone):
                    ahead[one].discard(gone)
                    if not ahead[one]:
                        leaving.append(one)
                for one in ahead.pop(gone):
                    behind[one].discard(gone)
        return frozenset(held)

    def _names_in(self, at: int) -> set[str]:
        found, self._at = set[str](), at
        while (token := self._ahead()) is not None and self._head() is None and token["directive"] is None:
            self._at = token.end()
            if token.lastgroup == "name":
                found.add(token[0])
        return found

    def _imported(self) -> None:
        found = _IMPORT.match(self._source, self._at)
        if found is None:
            raise Unreadable("only terminals of `common` are imported")
        self._at = found.end()
        for name in [found["one"]] if found["one"] else found["some"].replace(",", " ").split():
            if name not in _COMMON:
                raise Unreadable(f"common.{name}")
            self._common[found["alias"] or name] = _COMMON[name]

    def _named(self, name: str) -> str | None:
        """Give what a name stands for, as one piece."""
        if name in self._common:
            return f"(?:{self._common[name]})"
        if name not in self._rules:
            raise Unreadable(f"there is no rule {name!r}")
        depth, loops = self._depth, name in self._loops
        if loops and not depth:
            return None
        if (name, depth) not in self._known:
            before, self._at = self._at, self._rules[name]
            self._depth -= loops
            self._known[name, depth] = self._choice()
            if (left := self._ahead()) is not None and self._head() is None and left["directive"] is None:
                raise Unreadable(left[0])
            self._at, self._depth = before, depth
        found = self._known[name, depth]
        return None if found is None else f"(?:{found})"

    def _choice(self) -> str | None:
        ways = [self._series()]
        while (token := self._ahead()) is not None and token["sign"] == "|" and self._head() is None:
            self._at = token.end()
            ways.append(self._series())
        there = [way for way in ways if way is not None]
        return self._bounded("|", list(dict.fromkeys(there))) if there else None

    def _series(self) -> str | None:
        parts, size, whole = list[str](), 0, True
        while (token := self._ahead()) is not None and self._head() is None:
            if token["sign"] in {"|", ")", "]"} or token["directive"] is not None:
                break
            self._at = token.end()
            part = self._times(self._part(token))
            whole = whole and part is not None
            parts.append(part or "")
            size += len(parts[-1])
            if size > MOST:
                break
        return self._bounded("", parts) if whole else None

    def _bounded(self, between: str, parts: list[str]) -> str:
        """Join parts that stay within bounds."""
        if sum(map(len, parts)) > MOST:
            raise _TooLong(f"it comes to more than {MOST} characters")
        return between.join(parts)

    def _part(self, token: re.Match[str]) -> str | None:
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
                if token[0] == "(":
                    return None if inner is None else f"(?:{inner})"
                return f"(?:{inner or ''})?"
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

    def _times(self, part: str | None) -> str | None:
        while (token := self._ahead()) is not None and (times := token["times"]) and self._head() is None:
            self._at = token.end()
            if counted := _TIMES.fullmatch(times):
                times = f"{{{counted[1]},{counted[2]}}}" if counted[2] else f"{{{counted[1]}}}"
            elif times.startswith("{,"):
                times = f"{{0{times[1:]}"
            if part is not None:
                part = f"(?:{part}{times})"
            elif times[0] in "?*" or _NONE.match(times):
                part = ""  # which may be left out
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
