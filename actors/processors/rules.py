"""What is looked for in texts: patterns of secrets and of personal data, each with the longest that it can be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from actors.errors import DefinitionError

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

    def __post_init__(self) -> None:
        try:
            compiled = re.compile(self.pattern)
        except re.error as error:
            raise DefinitionError(f"rule {self.name!r}: {self.pattern!r} is no regular expression: {error}") from error
        if compiled.match(""):
            raise DefinitionError(f"rule {self.name!r}: {self.pattern!r} fits an empty text: it would be everywhere")
        if self.longest < 0:
            raise DefinitionError(f"rule {self.name!r}: longest={self.longest}: give characters, or 0 for not known")

    @property
    def compiled(self) -> re.Pattern[str]:
        """The pattern, ready to be looked for."""
        return re.compile(self.pattern)

    def found(self, text: str, start: int) -> Iterator[tuple[int, int]]:
        """Yield where it is found from a place on: beginning and end."""
        while (match := self.compiled.search(text, start)) is not None:
            length = len(match.group()) if self.check is None else self.check(match.group())
            start = match.start() + (length or 1)
            if length:
                yield match.start(), start


def _card(text: str) -> int:
    return next((end for end in _ends(text) if _luhn(text[:end])), 0)


def _luhn(text: str) -> bool:
    digits = [int(character) for character in reversed(text) if character.isdigit()]
    doubled = [2 * digit - 9 * (digit > 4) if place % 2 else digit for place, digit in enumerate(digits)]
    return 13 <= len(digits) <= 19 and sum(doubled) % 10 == 0


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
    Rule("PRIVATE_KEY", rf"-----BEGIN {_KEY_NAME}[A-Za-z0-9+/=\s]{{1,8000}}(?:-----END {_KEY_NAME})?", 8120),
    Rule("TOKEN", r"\beyJ[A-Za-z0-9_-]{5,1000}\.[A-Za-z0-9_-]{5,2000}\.[A-Za-z0-9_-]{0,1000}", 4010),
    Rule("AWS_KEY", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b", 20),
    Rule("API_KEY", r"\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,250}", 254),
    Rule("GITHUB_TOKEN", r"\b(?:gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{20,255})", 266),
    Rule("SLACK_TOKEN", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,250}", 256),
    Rule("GOOGLE_KEY", r"\bAIza[A-Za-z0-9_-]{35}", 39),
    Rule("PASSWORD_IN_URL", r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,64}:[^\s/@]{1,128}@", 220),
)
"""Keys, tokens and passwords, as those who issue them write them."""

_GROUPS = r"\d{2,4}(?:[ .-]\d{2,4})"
_AREA = r"(?<![\w+])(?<!\d\d[ .-])(?:\+\d{1,3}[ .-]?)?"
_PHONE = rf"{_AREA}(?:\(\d{{2,4}}\)[ .-]?{_GROUPS}{{1,4}}|{_GROUPS}{{2,4}})(?!\w)"

PERSONAL = (
    Rule("EMAIL", r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}\b", 350),
    Rule("IBAN", r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{1,4}){3,8}\b", 50, _iban),
    Rule("CARD", r"\b\d(?:[ -]?\d){12,18}\b", 40, _card),
    Rule("SOCIAL_SECURITY", r"\b\d{3}-\d{2}-\d{4}\b", 11),
    Rule("PHONE", _PHONE, 42, _phone),
    Rule("IP_ADDRESS", r"\b\d{1,3}(?:\.\d{1,3}){3}\b", 15, _address),
)
"""What tells who somebody is, where its form gives it away; names and places have none."""
