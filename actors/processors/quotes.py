"""What a judge quotes of a text, found there again and masked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import msgspec

from actors.parameters import read_json, unfenced
from actors.processors.patterns import aside

Quotes = Mapping[str, Sequence[str]]
"""Name of each class to what is quoted of it."""


class Masked(NamedTuple):
    """A text without what was quoted, and how much of each class that was."""

    text: str
    found: tuple[tuple[str, int], ...]


def quotes_of(verdict: str) -> Quotes | None:
    """Read what a judge quotes; None where that cannot be made out."""
    text = unfenced(verdict)
    if text.strip(" \n.`'\"").casefold() == "none":
        return {}
    try:
        quotes: Quotes = read_json(text, dict[str, list[str]])
    except msgspec.DecodeError:
        return None
    return quotes


async def masked(text: str, quotes: Quotes, known: Container[str], other: str) -> Masked | None:
    """Put names of classes in the place of what is quoted, wherever it stands; None where a quote stands nowhere.

    Args:
        text: that is quoted.
        quotes: by class.
        known: the classes that there are.
        other: named in the place of any other: what the judge calls it may hold the text.
    """
    return await aside(len(text), lambda: _masked(text, quotes, known, other))


def _masked(text: str, quotes: Quotes, known: Container[str], other: str) -> Masked | None:
    folded, places = _folded(text)
    spans: list[tuple[int, int, str]] = []
    for name, told in quotes.items():
        for quote in told:
            found = _found(folded, _folded(quote)[0].strip())
            if not found:
                return None
            spans += [(places[start], places[end - 1] + 1, name if name in known else other) for start, end in found]
    parts, place, counted = [], 0, Counter[str]()
    for start, end, name in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start >= place:
            parts += [text[place:start], f"[{name}]"]
            counted[name] += 1
        place = max(place, end)  # what overlaps is one thing, of which nothing may be left
    return Masked("".join((*parts, text[place:])), tuple(counted.items()))


def _folded(text: str) -> tuple[str, list[int]]:
    """Make case and spaces of no account; give the text so, and where each of its characters stands."""
    kept: list[str] = []
    places: list[int] = []
    for at, char in enumerate(text):
        space = char.isspace()
        if space and kept and kept[-1] == " ":
            continue
        lower = char.lower()
        kept.append(" " if space else lower if len(lower) == 1 else char)
        places.append(at)
    return "".join(kept), places


def _found(text: str, quote: str) -> list[tuple[int, int]]:
    """Find a quote wherever it stands, from both ends: what overlaps with itself is found by one or the other.

    Each search takes time by the length of the text alone, whatever it and the quote are.
    """
    if not quote:
        return []
    found, at = [], text.find(quote)
    while at >= 0:
        found.append((at, at + len(quote)))
        at = text.find(quote, at + len(quote))
    at = text.rfind(quote) if found else -1
    while at >= 0:
        found.append((at, at + len(quote)))
        at = text.rfind(quote, 0, at)
    return found
