"""Regular expressions of whole texts: as the `pattern` of a JSON Schema, and as a part of a Lark grammar."""

from __future__ import annotations

import re
from typing import Final

_BEGIN: Final = "^(?:"
_END: Final = ")$"
_PIECE: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
_TO_ESCAPE: Final = re.compile(r"\\.|/|\n", re.DOTALL)


def anchored(source: str) -> str:
    """Write a regular expression so that a JSON Schema's `pattern` is all of the text."""
    return f"{_BEGIN}{source}{_END}"


def unanchored(pattern: object) -> str | None:
    """Give what was anchored; None if a pattern is none of those."""
    if not isinstance(pattern, str) or not (pattern.startswith(_BEGIN) and pattern.endswith(_END)):
        return None
    source, depth = pattern[len(_BEGIN) : -len(_END)], 0
    for piece in _PIECE.findall(source):
        depth += (piece == "(") - (piece == ")")
        if depth < 0:
            return None  # its end is another group's
    return source


def as_terminal(source: str) -> str:
    """Write a regular expression as Lark has them."""
    return f"/{_TO_ESCAPE.sub(_escaped, source)}/"


def _escaped(found: re.Match[str]) -> str:
    return {"/": r"\/", "\n": r"\n", "\\\n": r"\n"}.get(found[0], found[0])
