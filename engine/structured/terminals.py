"""Lark grammars written again, so that no part of an answer takes what the next part needs.

llguidance reads terminals greedily, one after another: in `start: ITEM "end"` where `ITEM` is `/[a-z]+/` the item goes
on over `end`, and no answer ever ends. Within one terminal there is no such order, so what stands side by side without
a rule that holds itself is made one: `ITEM "end"` is the regular expression `/[a-z]+end/`. Where something else follows
it may have to be the first end that counts (`[lazy]`), as it is in tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from engine.structured.regexes import Unreadable
from engine.structured.scanner import Scanner

_START: Final = "start"
_OPTIONS: Final = re.compile(r"[ \t]*")


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of a series, with how often it comes."""

    text: str
    """What it is, where it is neither a name nor a group."""
    times: str = ""
    name: str = ""
    group: _Ways | None = None
    signs: str = "()"
    is_text: bool = False
    """Whether it stands for text, and not for a token or a schema."""


@dataclass(frozen=True, slots=True)
class _Ways:
    """Series of which one comes."""

    series: tuple[tuple[_Part, ...], ...]
    between: tuple[str, ...]


def rewritten(source: str) -> Iterator[str]:
    """Write a Lark grammar with fewer terminals: as little as can be changed first. Nothing where it is not read."""
    try:
        reader = _Reader(source)
        rules = reader.rules()
    except (Unreadable, RecursionError):
        return
    if _START in rules:
        yield _Writer(rules, reader.options, lazy=False).written(reader.before)
        yield _Writer(rules, reader.options, lazy=True).written(reader.before)


class _Reader(Scanner):
    def __init__(self, source: str) -> None:
        super().__init__(source)
        self.options: dict[str, str] = {}
        """Of rules that have some."""
        self.before: list[str] = []
        """What is said of the whole grammar."""

    def rules(self) -> dict[str, _Ways]:
        """Read all of it."""
        found = dict[str, _Ways]()
        while (token := self._ahead()) is not None:
            head = self._head()
            if head is not None:
                self._at = head.end()
                if head[2]:
                    self.options[head[1]] = head[2]
                found[head[1]] = self._ways()
            elif token["directive"] == "%llguidance":
                self._at = token.end()
                self.before.append(f"%llguidance {json.dumps(self._json())}")
            else:
                raise Unreadable(token[0])
        return found

    def _ways(self) -> _Ways:
        series, between = [self._series()], list[str]()
        while (token := self._ahead()) is not None and token["sign"] in {"|", "&"}:
            self._at = token.end()
            between.append(token[0])
            series.append(self._series())
        return _Ways(tuple(series), tuple(between))

    def _series(self) -> tuple[_Part, ...]:
        parts = list[_Part]()
        while (token := self._ahead()) is not None and self._head() is None:
            if token["sign"] in {"|", "&", ")", "]"} or token["directive"] in {"%ignore", "%llguidance"}:
                break
            self._at = token.end()
            parts.append(self._part(token))
        return tuple(parts)

    def _part(self, token: re.Match[str]) -> _Part:
        if token["sign"] in {"(", "["}:
            group = self._ways()
            closing = self._next()
            return _Part("", self._times(), group=group, signs=token[0] + closing)
        if token["directive"] is not None:
            return _Part(f"{token[0]} {json.dumps(self._json())}", self._times())
        if token["name"] is not None:
            return _Part(token[0], self._times(), name=token[0])
        if token["text"] is None and token["regex"] is None:
            # a token of the model, or an operator that is for terminals alone
            return _Part(token[0], self._times())
        text = token[0]
        if (after := self._ahead()) is not None and after["sign"] == "..":
            self._at = after.end()
            text += f"..{self._next()}"
        return _Part(text, self._times(), is_text=True)

    def _times(self) -> str:
        times = ""
        while (token := self._ahead()) is not None and token["times"] is not None and self._head() is None:
            self._at = token.end()
            times += token[0]
        return times

    def _next(self) -> str:
        token = self._ahead()
        if token is None:
            raise Unreadable("it ends too early")
        self._at = token.end()
        return token[0]


class _Writer:
    def __init__(self, rules: Mapping[str, _Ways], options: Mapping[str, str], *, lazy: bool) -> None:
        self._rules = rules
        self._options = options
        self._lazy = lazy
        self._fused = list[str]()
        self._regular = dict[str, str]()
        """Rules that are regular expressions, and the terminals that they become."""
        while True:
            more = {
                name: f"PART_{number}"
                for number, (name, ways) in enumerate(rules.items())
                if name not in self._regular and name not in options and self._is_regular(ways)
            }
            self._regular |= more
            if not more:
                break

    def written(self, before: list[str]) -> str:
        """Write all of it."""
        lines = list(before)
        if _START in self._regular:
            lines.append(f"{_START}: {self._regular[_START]}")
        for name, ways in self._rules.items():
            if name in self._regular:
                lines.append(f"{self._regular[name]}: {self._plain(ways)}")
            else:
                lines.append(f"{name}{self._options.get(name, '')}: {self._fusing(ways)}")
        return "\n".join((*lines, *self._fused))

    def _is_regular(self, ways: _Ways) -> bool:
        return all(self._is_expression(part) for series in ways.series for part in series)

    def _is_expression(self, part: _Part) -> bool:
        if part.group is not None:
            return self._is_regular(part.group)
        return part.name in self._regular if part.name else part.is_text or part.text == "~"

    def _plain(self, ways: _Ways) -> str:
        return _joined(ways, [" ".join(map(self._as_is, series)) for series in ways.series])

    def _as_is(self, part: _Part) -> str:
        if part.group is not None:
            return f"{part.signs[0]}{self._plain(part.group)}{part.signs[1]}{part.times}"
        return self._regular.get(part.name, part.text) + part.times

    def _fusing(self, ways: _Ways) -> str:
        return _joined(ways, [" ".join(self._runs(series)) for series in ways.series])

    def _runs(self, series: tuple[_Part, ...]) -> Iterator[str]:
        """Write a series, with what stands side by side in it and is a regular expression as one terminal."""
        run = list[_Part]()
        for part in series:
            if self._is_expression(part):
                run.append(part)
                continue
            yield from self._fuse(run)
            run = []
            if part.group is not None:
                yield f"{part.signs[0]}{self._fusing(part.group)}{part.signs[1]}{part.times}"
            else:
                yield self._as_is(part)
        yield from self._fuse(run)

    def _fuse(self, run: list[_Part]) -> Iterator[str]:
        if len(run) < 2 or (self._lazy and not (run[-1].is_text and not run[-1].times)):
            yield from map(self._as_is, run)
            return
        name = f"FUSED_{len(self._fused)}".lower() if self._lazy else f"FUSED_{len(self._fused)}"
        self._fused.append(f"{name}{'[lazy]' if self._lazy else ''}: {' '.join(map(self._as_is, run))}")
        yield name


def _joined(ways: _Ways, written: list[str]) -> str:
    between = [f" {sign} " for sign in ways.between]
    return "".join(text for pair in zip(written, [*between, ""], strict=True) for text in pair)
