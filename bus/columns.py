"""What columns of Postgres can hold of what events say."""

from __future__ import annotations

from datetime import date
from functools import lru_cache

from schemas.times import DAY

_EPOCH = date(1970, 1, 1).toordinal()
_LAST_DAY = date.max.toordinal() - _EPOCH
_LONGEST = 200
"""Characters of a name that are kept: an index cannot hold a long one."""


def text(value: str) -> str:
    """Return what Postgres can hold and index."""
    return whole(value)[:_LONGEST]


def whole(value: str) -> str:
    """Return what Postgres can hold, however long."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")


def day(time: int) -> date:
    """Return the day of a time in microseconds since the Unix epoch, as far as there are dates."""
    return _date(time // DAY)


@lru_cache(maxsize=64)
def _date(days: int) -> date:
    return date.fromordinal(_EPOCH + min(max(0, days), _LAST_DAY))
