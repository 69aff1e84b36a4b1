"""What a check found: one line, how bad it is, and what mends it."""

from __future__ import annotations

from typing import Literal

from schemas.wire import Wire

Level = Literal["ok", "warning", "problem"]


class Finding(Wire, frozen=True):
    """One line of the doctor's report."""

    check: str
    level: Level
    says: str
    mend: str = ""
    """What to do about it; empty when nothing is needed."""


def ok(check: str, says: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", says)


def warning(check: str, says: str, mend: str) -> Finding:
    """Ostinato works, but less well than it could."""
    return Finding(check, "warning", says, mend)


def problem(check: str, says: str, mend: str) -> Finding:
    """Ostinato would not start, or would break."""
    return Finding(check, "problem", says, mend)
