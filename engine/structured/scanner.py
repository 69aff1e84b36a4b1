"""The tokens of Lark grammars, as llguidance writes them."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from engine.structured.regexes import Unreadable

_HEAD: Final = re.compile(r"[!?]?(\w[\w-]*)[ \t]*(\[[^\]\n]*\])?(?:\.-?\d+)?[ \t]*:(?!:)")
_TOKEN: Final = re.compile(
    r"""(?P<blank>\s+|//[^\n]*|\#[^\n]*|->[ \t]*\w+)
    |(?P<text>"(?:\\.|[^"\\])*")(?P<any_case>i?)
    |(?P<regex>/(?:\\.|[^/\\\n])+/)(?P<flags>[a-z]*)
    |(?P<special><(?:\[[^\]]*\]|[^>\s]+)>)
    |(?P<directive>%\w+)
    |(?P<times>\{\d*(?:,\d*)?\}|~\s*\d+(?:\.\.\d+)?|[?*+])
    |(?P<name>@?[A-Za-z_][\w-]*)
    |(?P<sign>\.\.|::|[()\[\]|&~])""",
    re.VERBOSE,
)


class Scanner:
    """Goes over a grammar token by token."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0

    def _ahead(self) -> re.Match[str] | None:
        """Look at the next token; None is the end."""
        while self._at < len(self._source):
            found = _TOKEN.match(self._source, self._at)
            if found is None:
                raise Unreadable(self._source[self._at : self._at + 20])
            if found["blank"] is None:
                return found
            self._at = found.end()
        return None

    def _head(self) -> re.Match[str] | None:
        """Look whether a rule begins here."""
        begun = self._source.rfind("\n", 0, self._at) + 1
        return None if self._source[begun : self._at].strip() else _HEAD.match(self._source, self._at)

    def _json(self) -> Any:
        """Take a JSON value."""
        while self._source[self._at : self._at + 1].isspace():
            self._at += 1
        try:
            found, self._at = json.JSONDecoder().raw_decode(self._source, self._at)
        except ValueError as error:
            raise Unreadable(str(error)) from error
        return found
