"""When cron expressions are due, also where clocks are set forward and back."""

from __future__ import annotations

from datetime import datetime

import pytest

from actors.schedules.cron import latest_due, next_due, why_unfit
from schemas.schedules import Schedule
from schemas.times import microseconds, rfc3339


def vienna(cron: str, timezone: str = "Europe/Vienna") -> Schedule:
    return Schedule(cron, "digest", "go", timezone)


def at(text: str) -> int:
    return microseconds(datetime.fromisoformat(text).isoformat())


def following(schedule: Schedule, after: str, count: int) -> list[str]:
    found, now = [], at(after)
    for _ in range(count):
        due = next_due(schedule, now)
        assert due is not None
        found.append(rfc3339(now := due)[:16])
    return found


def test_a_time_of_day_is_that_of_the_zone_in_winter_and_summer() -> None:
    found = following(vienna("0 8 28-30 3 *"), "2026-03-27T00:00Z", 3)
    assert found == ["2026-03-28T07:00", "2026-03-29T06:00", "2026-03-30T06:00"]


def test_a_time_that_is_left_out_is_due_right_after_the_gap() -> None:
    found = following(vienna("30 2 * * *"), "2026-03-28T12:00Z", 2)
    assert found == ["2026-03-29T01:00", "2026-03-30T00:30"]  # 03:00 summer time, then 02:30


def test_a_time_that_comes_twice_is_due_once() -> None:
    daily = vienna("30 2 * * *")
    found = following(daily, "2026-10-24T12:00Z", 2)
    assert found == ["2026-10-25T00:30", "2026-10-26T01:30"]
    assert following(daily, "2026-10-25T01:10Z", 1) == ["2026-10-26T01:30"]  # asked while the hour comes again


def test_every_half_hour_goes_by_elapsed_time_through_both() -> None:
    found = following(vienna("*/30 * * * *"), "2026-10-25T00:00Z", 4)
    assert found == ["2026-10-25T00:30", "2026-10-25T01:00", "2026-10-25T01:30", "2026-10-25T02:00"]
    found = following(vienna("*/30 * * * *"), "2026-03-29T00:30Z", 2)
    assert found == ["2026-03-29T01:00", "2026-03-29T01:30"]


@pytest.mark.parametrize("cron", ["0 8 * * *", "*/7 * * * *", "30 2 * * *", "0 0 1 * MON", "15 */5 L * *"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Vienna", "Australia/Lord_Howe", "America/New_York"])
@pytest.mark.parametrize("start", ["2026-03-07T00:00Z", "2026-10-24T18:00Z"])
def test_looking_back_finds_what_looking_forward_found(cron: str, zone: str, start: str) -> None:
    schedule, dues, now = vienna(cron, zone), list[int](), at(start)
    for _ in range(300):
        due = next_due(schedule, now)
        assert due is not None
        assert due > now
        dues.append(now := due)
    assert latest_due(schedule, dues[0], dues[-1], 300) == dues
    assert latest_due(schedule, dues[0], dues[-1] + 1, 2) == dues[-2:]
    assert latest_due(schedule, dues[5], dues[8] - 1, 10) == dues[5:8]


def test_what_is_never_due_is_said() -> None:
    assert next_due(vienna("0 0 29 2 1L"), at("2026-01-01T00:00Z")) is not None
    assert next_due(vienna("* * */20 * 1L"), at("2026-01-01T00:00Z")) is None


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        (vienna("0 8 * *"), "cron"),
        (vienna("0 0 8 * * *"), "cron"),
        (vienna("61 8 * * *"), "cron"),
        (vienna("0 8 * * FRY"), "cron"),
        (vienna("0 8 31 2 *"), "cron"),
        (vienna("0 8 * * *", "Europe/Wien"), "timezone"),
        (vienna("0 8 * * *", "../etc/passwd"), "timezone"),
        (vienna("0 8 * * *", ""), "timezone"),
    ],
)
def test_what_cannot_be_read_is_named(schedule: Schedule, field: str) -> None:
    found = why_unfit(schedule)
    assert found is not None
    assert found[0] == field
    assert repr(getattr(schedule, field)) in found[1]
