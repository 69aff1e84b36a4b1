"""The machine's own time, ids and chance: the one module that may ask for them (law 3)."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


class SystemClock:
    """The wall clock."""

    def now(self) -> int:
        """Return microseconds since the Unix epoch."""
        return time.time_ns() // 1000


class SystemChance:
    """The operating system's randomness."""

    def bits(self, count: int) -> int:
        """Return an unpredictable integer of `count` bits."""
        return secrets.randbits(count)


class SystemIds:
    """Ids of a prefix, 10 characters of time (milliseconds, Crockford base 32) and 12 of chance."""

    def new(self, prefix: str) -> str:
        """Return a fresh id; later ones sort after earlier ones, to the millisecond."""
        return prefix + _base32(time.time_ns() // 1_000_000, 10) + _base32(secrets.randbits(60), 12)


def _base32(number: int, width: int) -> str:
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(5 * (width - 1), -1, -5))
