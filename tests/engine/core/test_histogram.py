"""What is remembered of durations and sizes, and what is expected of a wait that goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.expectations import Expectations
from engine.core.histogram import Histogram


def seen(*values: int) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


def test_of_too_little_nothing_is_concluded() -> None:
    assert seen().mean is None
    assert seen(5, 5).mean is None
    assert seen(100, 100, 100, 100).mean == pytest.approx(100)
    assert seen(100, 100, 100, 100).mean_above(1000) is None


@given(st.lists(st.integers(1, 10**9), min_size=30, max_size=100))
def test_the_mean_is_that_of_what_was_seen_the_latest_counting_most(values: list[int]) -> None:
    weights = [0.99 ** (len(values) - 1 - at) for at in range(len(values))]
    expected = sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
    assert seen(*values).mean == pytest.approx(expected)


@given(st.lists(st.integers(1, 10**9), min_size=10, max_size=60), st.integers(0, 10**9))
def test_what_is_above_something_has_a_mean_above_it(values: list[int], least: int) -> None:
    mean = seen(*values).mean_above(least)
    assert mean is None or mean >= least


def test_it_goes_on_for_long_without_losing_its_measure() -> None:
    histogram = Histogram()
    for _ in range(5000):
        histogram.add(1000)
    assert histogram.mean == pytest.approx(1000)
    for _ in range(2000):
        histogram.add(64_000)
    assert histogram.mean == pytest.approx(64_000, rel=0.01)


def test_what_lasts_longer_than_most_is_expected_to_last_long() -> None:
    learned = Expectations()
    for _ in range(20):
        learned.waited("build", 500_000)
    for _ in range(5):
        learned.waited("build", 60_000_000)
    soon, late = learned.remaining("build", 0), learned.remaining("build", 5_000_000)
    assert soon < 20_000_000 < late
    assert learned.remaining("build", 300_000_000) == 300_000_000, "none lasted that long: as long again"
    assert learned.remaining("unknown", 10) == 1_000_000


def test_how_often_programs_come_back_is_learned_by_kind() -> None:
    learned = Expectations()
    assert learned.chance("chat") == 1.0
    for _ in range(200):
        learned.left("once")
        learned.left("agent")
        learned.came_back("agent")
    assert learned.chance("once") < 0.02
    assert learned.chance("agent") > 0.98


def test_one_that_is_away_for_longer_than_those_that_come_back_is_not_expected_to() -> None:
    learned = Expectations()
    for _ in range(100):
        learned.left("agent")
        learned.came_back("agent")
        learned.waited("", 1_000_000)
    soon, late = learned.chance("agent", "", 100_000), learned.chance("agent", "", 30_000_000)
    assert soon > 0.95
    assert late < 0.6
    assert learned.chance("agent", "never seen", 30_000_000) > 0.95


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=60), st.integers(0, 10**6))
def test_the_share_above_something_is_one_and_falls(values: list[int], least: int) -> None:
    histogram = seen(*values)
    assert 0 < histogram.share_above(least + 1000) <= histogram.share_above(least) <= 1
    assert histogram.share_above(0) == pytest.approx(1)


def test_kinds_that_clients_make_up_are_forgotten() -> None:
    learned = Expectations()
    for number in range(5000):
        learned.waited(f"tool-{number}", 1)
    assert len(learned._waits) <= 1024


def test_a_kind_of_context_of_which_nothing_is_known_is_expected_to_grow_by_two_turns() -> None:
    assert set(Expectations().outlook("agent", 400, 100)) == {300.0, 400.0, 500.0}


def test_what_contexts_come_to_tells_how_many_will_still_be_there_and_how_large() -> None:
    known = Expectations()
    for _ in range(50):
        known.grew("agent", 100)
        known.came_to("agent", 1000)
    young, old = known.outlook("agent", 200, 0), known.outlook("agent", 900, 0)
    assert young[0] == 200
    assert young[4] == pytest.approx(600, rel=0.1), "none of its kind was over by then"
    assert old[0] == 900
    assert old[-1] < 150, "all of its kind were"
    apart = known.outlook("agent", 200, 150)
    assert apart[0] == 50
    beyond = known.outlook("agent", 5000, 0)
    assert beyond == tuple(sorted(beyond)), "one that is larger than all before it goes on"
