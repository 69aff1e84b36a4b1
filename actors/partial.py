"""The beginning of a JSON text as the value that it is so far, for who watches a model write it. Pure."""

from __future__ import annotations

import re
from typing import Any

import msgspec

_FENCE = re.compile(r"\s*```(?:json)?\s")
_HALF = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\?$|(?:\\u[dD][89abAB][0-9a-fA-F]{2})?\\u[0-9a-fA-F]{0,3}$")
"""Of a character that is written in escapes, and comes in pieces."""
_CLOSING = {"{": "}", "[": "]"}


def partial_value(text: str) -> Any:
    """Give what a beginning of JSON says for certain; None while it says nothing.

    A text that is not closed is what there is of it; a number, a key, or a word that may go on is left out. A fence
    around the JSON is passed over.
    """
    fence = _FENCE.match(text)
    text = text[fence.end() :] if fence else text
    for end in _ends(text):
        try:
            return msgspec.json.decode(end)
        except msgspec.DecodeError:
            continue
    return None


def _ends(text: str) -> list[str]:
    """List ways to bring the text to an end, the one that keeps most first."""
    closers: list[str] = []
    places: list[tuple[int, str]] = [(0, "")]
    """Where a value has just ended or is about to begin, and what closes the rest from there."""
    inside = escaped = False
    for at, character in enumerate(text):
        if inside:
            inside, escaped = _in_text(character, escaped)
            continue
        match character:
            case '"':
                inside = True
            case "{" | "[":
                closers.append(_CLOSING[character])
                places.append((at + 1, "".join(reversed(closers))))
            case "}" | "]" if closers:
                closers.pop()
                places.append((at + 1, "".join(reversed(closers))))
            case ",":
                places.append((at, "".join(reversed(closers))))
            case _:
                pass
    rest = "".join(reversed(closers))
    begun = [text + '"' + rest, text[:-1] + '"' + rest, _HALF.sub("", text) + '"' + rest]
    whole = begun if inside else [text + rest] if not closers and not text.rstrip()[-1:].isdigit() else []
    # what stands behind the last comma or bracket may be half a number, or a key without a value
    return [*whole, *_without_half(text, rest, inside), *(text[:at] + after for at, after in reversed(places))]


def _without_half(text: str, rest: str, inside: bool) -> list[str]:
    """Keep a text or a word that is whole although nothing follows it yet."""
    stripped = text.rstrip()
    certain = stripped.endswith(('"', "true", "false", "null", "}", "]"))
    return [stripped + rest] if certain and not inside else []


def _in_text(character: str, escaped: bool) -> tuple[bool, bool]:
    if escaped:
        return True, False
    return character != '"', character == "\\"
