"""How much is let in at once: over made-up time, so that every run is the same."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import pytest

from infra.bridge.admission import Admission, Quota, Quotas, Rates, spelled

PLACES = 64
AT_ONCE = 32
SERVICE_S = 1.0
PATIENCE_S = 4.0
CAPACITY = AT_ONCE / SERVICE_S


@dataclass
class Outcome:
    """What came of a load."""

    good: int
    """Answers that came while their client still waited."""
    late: int
    refused: int
    waits: list[int]


def load(rate: float, seconds: float, admission: Admission) -> Outcome:
    """Have clients come at a rate to a server that answers `AT_ONCE` of them at a time, in order of arrival."""
    outcome, ends, free = Outcome(0, 0, 0, []), list[tuple[float, float]](), [0.0] * AT_ONCE
    for number in range(int(rate * seconds)):
        now = number / rate
        while ends and ends[0][0] <= now:
            end, came = heapq.heappop(ends)
            admission.leave(end)
            late = end - came > PATIENCE_S
            outcome.late += late
            outcome.good += not late
        wait_ms = admission.enter(now)
        if wait_ms is not None:
            outcome.refused += 1
            outcome.waits.append(wait_ms)
            continue
        end = max(now, heapq.heappop(free)) + SERVICE_S
        heapq.heappush(free, end)
        heapq.heappush(ends, (end, now))
    return outcome


def test_at_four_times_what_can_be_done_as_much_is_done_as_at_best() -> None:
    peak = load(CAPACITY, 60, Admission(PLACES))
    over = load(4 * CAPACITY, 60, Admission(PLACES))
    assert peak.refused == 0
    assert over.good >= 0.9 * peak.good
    assert over.late == 0
    assert over.refused > 2 * over.good


def test_without_a_bound_nearly_all_that_is_done_is_too_late() -> None:
    peak = load(CAPACITY, 60, Admission(PLACES))
    over = load(4 * CAPACITY, 60, Admission(1_000_000))
    assert over.good < 0.2 * peak.good


def test_who_is_turned_away_is_told_to_come_when_there_may_be_a_place() -> None:
    over = load(4 * CAPACITY, 60, Admission(PLACES))
    assert all(50 <= wait <= 30_000 for wait in over.waits)
    assert len({*over.waits}) > 10, "all would come back at once"


def test_a_place_that_is_left_is_there_for_the_next() -> None:
    admission = Admission(1)
    assert admission.enter(0.0) is None
    assert admission.enter(0.0) is not None
    admission.leave(1.0)
    assert admission.enter(1.0) is None
    assert (admission.taken, admission.turned_away) == (1, 1)


def test_nothing_is_left_that_was_not_taken() -> None:
    with pytest.raises(AssertionError):
        Admission(1).leave(0.0)


def test_a_key_may_come_as_often_as_it_may_and_no_more_over_any_hour() -> None:
    quota, let_in = Quota(Rates(requests=60)), 0
    for tenth in range(36_000):
        if not quota.enter(tenth / 10):
            let_in += 1
            quota.leave()
    assert 3600 <= let_in <= 3660


def test_a_key_is_told_exactly_when_it_may_come_again() -> None:
    quota = Quota(Rates(requests=2))
    assert [quota.enter(0.0), quota.enter(0.0)] == [0.0, 0.0]
    wait = quota.enter(0.0)
    assert wait == pytest.approx(30)
    assert quota.enter(wait - 0.1) > 0
    assert quota.enter(wait + 0.1) == 0


def test_a_key_has_so_many_requests_at_the_same_time() -> None:
    quota = Quota(Rates(concurrent=2))
    assert [quota.enter(0.0) for _ in range(3)] == [0.0, 0.0, 1.0]
    quota.leave()
    assert quota.enter(0.0) == 0.0
    assert quota.requests.standing() is None
    assert quota.tokens.standing() is None


def test_keys_that_come_no_more_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.bridge.admission._MOST_KEYS", 2)
    quotas = Quotas(Rates(requests=60))
    busy = quotas.of("acme", "busy", Rates(), 0.0)
    busy.enter(0.0)
    quotas.of("acme", "idle", Rates(), 0.0)
    quotas.of("acme", "new", Rates(), 1.0)
    assert quotas.of("acme", "busy", Rates(), 1.0) is busy
    assert ("acme", "idle") not in quotas._known


@pytest.mark.parametrize(("seconds", "text"), [(0, "0ms"), (0.12, "120ms"), (1.5, "1.5s"), (30, "30s"), (360, "6m0s")])
def test_times_are_written_as_clients_read_them(seconds: float, text: str) -> None:
    assert spelled(seconds) == text


def test_a_key_that_took_more_tokens_than_there_were_waits_until_they_have_come_again() -> None:
    quota = Quota(Rates(tokens=600))
    assert quota.enter(0.0) == 0.0
    quota.tokens.take(900)
    standing = quota.tokens.standing()
    assert standing is not None
    assert (standing.limit, standing.remaining, standing.reset_s) == (600, 0, pytest.approx(90))
    wait = quota.enter(0.0)
    assert wait == pytest.approx(30.1)
    assert quota.enter(wait - 0.05) > 0
    assert quota.enter(wait + 0.05) == 0.0
    assert Rates(tokens=5).over(Rates(7, 8, 9)) == Rates(7, 8, 5)


def test_what_has_no_bound_is_idle_whatever_was_taken_of_it() -> None:
    quota = Quota(Rates())
    assert quota.enter(0.0) == 0.0
    quota.tokens.take(900)
    assert not quota.idle(0.0)
    quota.leave()
    assert quota.idle(0.0)
