"""What a terminal can do, and how we use it: colour where it helps, lines that are drawn again, no control characters.

`NO_COLOR` (https://no-color.org) turns colour off, `FORCE_COLOR` or `CLICOLOR_FORCE` turns it on where the output is
no terminal; when both are set, `NO_COLOR` wins. A terminal that calls itself `dumb` gets neither colour nor redrawing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)?|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STYLED = re.compile(r"(\x1b\[[0-9;]*m)")


@dataclass(frozen=True, slots=True)
class Style:
    """Colours text, or leaves it as it is."""

    colour: bool

    def name(self, text: str) -> str:
        """Mark what something is called."""
        return self._in("1", text)

    def aside(self, text: str) -> str:
        """Mark what is not the matter itself: tool calls, hints, numbers."""
        return self._in("2", text)

    def problem(self, text: str) -> str:
        """Mark what went wrong."""
        return self._in("31", text)

    def _in(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and text else text


PLAIN = Style(colour=False)


def style_for(output: TextIO, environment: Mapping[str, str] = os.environ) -> Style:
    """Say whether `output` gets colour."""
    if environment.get("NO_COLOR"):
        return PLAIN
    if any(environment.get(name, "0") not in {"", "0"} for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return Style(True)
    return Style(redraws(output, environment))


def redraws(output: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Say whether a line on `output` can be written again in place."""
    return output.isatty() and environment.get("TERM", "dumb") != "dumb"


def printable(text: str) -> str:
    """Leave out what would command the terminal: models and tools may say anything."""
    return _CONTROL.sub("", text)


def prompt(text: str) -> str:
    """Mark the styles in a prompt as taking no room, as readline wants it."""
    return _STYLED.sub("\x01\\1\x02", text)
