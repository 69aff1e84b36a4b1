"""Keys of providers: held where nothing prints them, and taken out of any text that may hold a part of one."""

from __future__ import annotations

from collections.abc import Iterable

from actors.errors import CallFailed
from schemas.runs import Problem

_SHORTEST = 8
"""Characters of a key that a text may hold in a row without telling of it."""
HIDDEN = "***"


class Key:
    """A key, which neither `repr` nor an encoder shows."""

    __slots__ = ("_value", "variable")

    def __init__(self, value: str, variable: str) -> None:
        self._value = value
        self.variable = variable
        """Where it came from."""

    @classmethod
    def of(cls, value: str, variable: str) -> Key:
        """Take a key that can be sent in a header.

        Raises:
            CallFailed: it cannot; what it holds is not told.
        """
        if not value.isascii() or not value.isprintable():
            message = f"{variable} holds characters that no key has: set it to the key alone, on one line"
            raise CallFailed(Problem(kind="key", message=message, field=variable))
        return cls(value, variable)

    def reveal(self) -> str:
        """Give the key, for a request's header and nothing else."""
        return self._value

    def __repr__(self) -> str:
        return f"Key({self.variable}={HIDDEN})"


def scrubbed(text: str, secrets: Iterable[str]) -> str:
    """Hide whatever of a text is a part of a secret: providers like to repeat the key that they refuse, or half of it.

    A short secret is hidden where it stands whole, a longer one also where eight of its characters do.
    """
    hidden = bytearray(len(text))
    for secret in secrets:
        width = min(_SHORTEST, len(secret))
        if not width:
            continue
        parts = {secret[start : start + width] for start in range(len(secret) - width + 1)}
        for start in range(len(text) - width + 1):
            if text[start : start + width] in parts:
                hidden[start : start + width] = b"\x01" * width
    if not any(hidden):
        return text
    told: list[str] = []
    for index, character in enumerate(text):
        if not hidden[index]:
            told.append(character)
        elif not index or not hidden[index - 1]:
            told.append(HIDDEN)
    return "".join(told)
