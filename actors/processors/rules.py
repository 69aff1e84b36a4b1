"""What is looked for in texts: patterns of secrets and of personal data, each with the longest that it can be."""

from __future__ import annotations

import re
from collections.abc import Callable
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
    check: Callable[[str], bool] | None = None
    """Says whether what fits the pattern really is one."""

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

    def fits(self, text: str) -> bool:
        """Say whether what the pattern found counts."""
        return self.check is None or self.check(text)


def _luhn(text: str) -> bool:
    digits = [int(character) for character in reversed(text) if character.isdigit()]
    doubled = [2 * digit - 9 * (digit > 4) if place % 2 else digit for place, digit in enumerate(digits)]
    return 13 <= len(digits) <= 19 and sum(doubled) % 10 == 0


def _iban(text: str) -> bool:
    plain = text.replace(" ", "")
    turned = plain[4:] + plain[:4]
    return 15 <= len(plain) <= 34 and int("".join(str(int(character, 36)) for character in turned)) % 97 == 1


def _phone(text: str) -> bool:
    digits = sum(character.isdigit() for character in text)
    return 7 <= digits <= 15 and not _DATE.fullmatch(text)


def _address(text: str) -> bool:
    return all(int(part) < 256 for part in text.split("."))


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
_PHONE = rf"(?<![\w+])(?:\+\d{{1,3}}[ .-]?)?(?:\(\d{{2,4}}\)[ .-]?{_GROUPS}{{1,4}}|{_GROUPS}{{2,4}})(?!\w)"

PERSONAL = (
    Rule("EMAIL", r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}\b", 350),
    Rule("IBAN", r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{1,4}){3,8}\b", 50, _iban),
    Rule("CARD", r"\b\d(?:[ -]?\d){12,18}\b", 40, _luhn),
    Rule("SOCIAL_SECURITY", r"\b\d{3}-\d{2}-\d{4}\b", 11),
    Rule("PHONE", _PHONE, 42, _phone),
    Rule("IP_ADDRESS", r"\b\d{1,3}(?:\.\d{1,3}){3}\b", 15, _address),
)
"""What tells who somebody is, where its form gives it away; names and places have none."""
