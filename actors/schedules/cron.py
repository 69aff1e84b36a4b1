"""When a cron expression is due in a time zone. Pure, but for the machine's copy of the time zone database.

Changes between winter and summer time are as Debian's cron has them: what is due at a time of day that is left out is
due right after the gap, and what is due at one that comes twice is due the first time; what is due every so many
minutes or hours goes by elapsed time.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from schemas.schedules import Schedule
from schemas.times import utc

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIELDS = 5
_OVERLAP = timedelta(hours=3)
"""More than any clock is set back by."""


def why_unfit(schedule: Schedule) -> tuple[str, str] | None:
    """Name the field that cannot be worked with, and why; None where all can."""
    if len(schedule.cron.split()) != _FIELDS:
        why = f"cron {schedule.cron!r} has not five fields: minute, hour, day of the month, month, day of the week"
        return "cron", why
    zone = zone_of(schedule.timezone)
    if zone is None:
        return "timezone", f"timezone {schedule.timezone!r} is not known: give an IANA name, such as 'Europe/Vienna'"
    try:
        CronSim(schedule.cron, datetime(2026, 1, 1, tzinfo=zone))
    except CronSimError as error:
        return "cron", f"cron {schedule.cron!r} cannot be read: {error}"
    return None


def next_due(schedule: Schedule, after: int) -> int | None:
    """Say when it is due next after a time; None is never."""
    return next((due for due in _forward(schedule, after) if due > after), None)


def latest_due(schedule: Schedule, first: int, until: int, count: int) -> list[int]:
    """List the last times, up to `count`, that it was due from `first` to `until`, the earliest first."""
    found: list[int] = []
    for moment in CronSim(schedule.cron, _local(schedule, until) + timedelta(seconds=1), reverse=True):
        due = _microseconds(moment)
        if due < first:
            break
        if due <= until and due not in found:
            found.append(due)
        if len(found) == count:
            break
    return found[::-1]


def _forward(schedule: Schedule, after: int) -> Iterator[int]:
    # a clock that was set back shows a time again: begin before it, and leave out what is over
    for moment in CronSim(schedule.cron, _local(schedule, after) - _OVERLAP):
        yield _microseconds(moment)


def _local(schedule: Schedule, at: int) -> datetime:
    return utc(at).astimezone(zone_of(schedule.timezone))


def _microseconds(moment: datetime) -> int:
    return (moment.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)


@lru_cache(maxsize=1000)
def zone_of(name: str) -> ZoneInfo | None:
    """Give a time zone; None where there is none of that name. Reads a file, the first time."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
