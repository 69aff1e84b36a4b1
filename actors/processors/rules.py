"""What is looked for in texts: patterns of secrets and of personal data, each with the longest that it can be.

By `regex` and not `re`: that can be stopped, and lets other threads go on, where a pattern meets a text that it takes
exponential time for.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import regex

from actors.errors import DefinitionError
from actors.processors.processor import Tripped

_SHORTEST_CARD = 13
_LIMIT_S: Final = 1.0
_EACH_S: Final = 1e-5
"""How long a rule may look for something in a text, and for each of its characters."""
_DATE = re.compile(r"\d{4}[ .-]\d{2}[ .-]\d{2}|\d{2}[ .-]\d{2}[ .-]\d{4}")


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern.

    Raises:
        DefinitionError: it is no regular expression, matches nothing at all, or its length makes no sense.
    """

    name: str
    """Told in place of what is found: `[EMAIL]`."""
    pattern: str
    longest: int = 0
    """Characters of the longest match; 0 is that nobody knows: then an answer is held back until it is whole."""
    check: Callable[[str], int] | None = None
    """Says how much of what fits the pattern really is one, from its beginning: 0 if it is none."""
    opens: Sequence[str] = ()
    """Every match begins with one of these; where none is, an answer need not be held back for the rule."""
    spaced: bool = True
    """Whether there may be white space in a match; if not, an answer is held back for a word, not for the longest."""

    def __post_init__(self) -> None:
        try:
            compiled = _compiled(self.pattern)
        except regex.error as error:
            raise DefinitionError(f"rule {self.name!r}: {self.pattern!r} is no regular expression: {error}") from error
        if compiled.match(""):
            raise DefinitionError(f"rule {self.name!r}: {self.pattern!r} fits an empty text: it would be everywhere")
        if self.longest < 0:
            raise DefinitionError(f"rule {self.name!r}: longest={self.longest}: give characters, or 0 for not known")

    def certain(self, text: str) -> int:
        """Say up to where in a text that goes on every match that begins is known, whatever comes."""
        if not self.longest:
            return 0
        # whether a match begins there depends on no more than its length, and on the character after it
        tail = max(0, len(text) - self.longest - 1)
        if self.opens:
            return min(_opening(text, tail, opening) for opening in self.opens)
        if not self.spaced:
            words = next((at for at in range(len(text), tail, -1) if text[at - 1].isspace()), tail)
            return max(tail, words)
        return tail

    def found(self, text: str, start: int) -> Iterator[tuple[int, int]]:
        """Yield where it is found from a place on: beginning and end.

        Raises:
            Tripped: that takes too long, as patterns do that can fit the same text in many ways, such as `(a|aa)+$`.
        """
        pattern, ends = _compiled(self.pattern), time.monotonic() + _LIMIT_S + _EACH_S * len(text)
        while True:
            try:
                match = pattern.search(text, start, timeout=max(0.001, ends - time.monotonic()))
            except TimeoutError:
                raise Tripped(f"looking for {self.name} took too long") from None
            if match is None:
                return
            length = len(match.group()) if self.check is None else self.check(match.group())
            start = match.start() + (length or 1)
            if length:
                yield match.start(), start


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> regex.Pattern[str]:
    return regex.compile(pattern)


def _opening(text: str, start: int, opening: str) -> int:
    """Say where an opening stands, or begins at the text's end; the text's end where it does not."""
    at = text.find(opening, start)
    if at >= 0:
        return at
    sizes = range(min(len(opening) - 1, len(text) - start), 0, -1)
    return next((len(text) - size for size in sizes if text.endswith(opening[:size])), len(text))


def _card(text: str) -> int:
    """Say how much of it is a card's number, by the check digit: the most that is."""
    plain, twice, known = 0, 0, 0
    for count, (at, digit) in enumerate(((at, int(one)) for at, one in enumerate(text) if one.isdigit()), 1):
        # by turns each is what it is, or what its double's digits add up to; which, depends on how many follow
        plain, twice = twice + digit, plain + 2 * digit - 9 * (digit > 4)
        if count >= _SHORTEST_CARD and plain % 10 == 0 and not text[at + 1 : at + 2].isalnum():
            known = at + 1
    return known


def _iban(text: str) -> int:
    return next((end for end in _ends(text) if _sums_up(text[:end].replace(" ", ""))), 0)


def _sums_up(plain: str) -> bool:
    turned = plain[4:] + plain[:4]
    return 15 <= len(plain) <= 34 and int("".join(str(int(character, 36)) for character in turned)) % 97 == 1


def _ends(text: str) -> Iterator[int]:
    """Yield where words of it end, the last first: what follows a number may look like more of it."""
    yield from (end for end in range(len(text), 0, -1) if not text[end : end + 1].isalnum() and text[end - 1].isalnum())


def _phone(text: str) -> int:
    digits = sum(character.isdigit() for character in text)
    return len(text) if 7 <= digits <= 15 and not _DATE.fullmatch(text) else 0


def _address(text: str) -> int:
    return len(text) if all(int(part) < 256 for part in text.split(".")) else 0


_KEY_NAME = "[A-Z ]{0,30}PRIVATE KEY-----"

SECRETS = (
    Rule(
        "PRIVATE_KEY",
        rf"-----BEGIN {_KEY_NAME}[A-Za-z0-9+/=\s]{{1,8000}}(?:-----END {_KEY_NAME})?",
        8120,
        opens=("-----BEGIN ",),
    ),
    Rule("TOKEN", r"\beyJ[A-Za-z0-9_-]{5,1000}\.[A-Za-z0-9_-]{5,2000}\.[A-Za-z0-9_-]{0,1000}", 4010, opens=("eyJ",)),
    Rule("AWS_KEY", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b", 20, opens=("AKIA", "ASIA")),
    Rule("API_KEY", r"\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,250}", 254, spaced=False),
    Rule("GITHUB_TOKEN", r"\b(?:gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{20,255})", 266, spaced=False),
    Rule("SLACK_TOKEN", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,250}", 256, opens=("xox",)),
    Rule("GOOGLE_KEY", r"\bAIza[A-Za-z0-9_-]{35}", 39, opens=("AIza",)),
    Rule("PASSWORD_IN_URL", r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,64}:[^\s/@]{1,128}@", 220, spaced=False),
)
"""Keys, tokens and passwords, as those who issue them write them."""

_GROUPS = r"\d{2,4}(?:[ .-]\d{2,4})"
_AREA = r"(?<![\w+])(?<!\d\d[ .-])(?:\+\d{1,3}[ .-]?)?"
_PHONE = rf"{_AREA}(?:\(\d{{2,4}}\)[ .-]?{_GROUPS}{{1,4}}|{_GROUPS}{{2,4}})(?!\w)"

PERSONAL = (
    Rule("EMAIL", r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}\b", 350, spaced=False),
    Rule("IBAN", r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b", 64, _iban),
    Rule("CARD", r"\b\d(?:[ -]?\d){12,18}\b", 40, _card),
    Rule("SOCIAL_SECURITY", r"\b\d{3}-\d{2}-\d{4}\b", 11),
    Rule("PHONE", _PHONE, 42, _phone),
    Rule("IP_ADDRESS", r"\b\d{1,3}(?:\.\d{1,3}){3}\b", 15, _address),
)
"""What tells who somebody is, where its form gives it away; names and places have none."""
