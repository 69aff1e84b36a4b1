"""Which plans a worker runs, and that an executor gives results in launch order."""

from __future__ import annotations

import pytest

from engine.runner.executor import Ask, Follower, Ignore, Run, Verdict, follow
from schemas.steps import StepPlan


def plan(n: int, epoch: str = "first", *, full: bool = False) -> StepPlan:
    return StepPlan(n=n, epoch=epoch, time=0, full=full, arrivals=(), slices=(), gone=())


def hear(*plans: StepPlan) -> tuple[Follower, list[Verdict]]:
    follower, verdicts = Follower(), []
    for heard in plans:
        follower, verdict = follow(follower, heard)
        verdicts.append(verdict)
    return follower, verdicts


def test_plans_in_order_after_a_full_one_are_run() -> None:
    follower, verdicts = hear(plan(1, full=True), plan(2), plan(3))
    assert verdicts == [Run(), Run(), Run()]
    assert follower.expected == 4


def test_a_worker_that_has_just_started_asks_until_a_full_plan_comes() -> None:
    _, verdicts = hear(plan(7), plan(8), plan(9, full=True), plan(10))
    assert verdicts == [Ask(0, "started"), Ask(0, "started"), Run(), Run()]


def test_a_missing_number_is_asked_for_and_nothing_runs_until_the_full_plan() -> None:
    follower, verdicts = hear(plan(1, full=True), plan(3), plan(4), plan(5, full=True), plan(6))
    assert verdicts == [Run(), Ask(2, "gap"), Ask(2, "gap"), Run(), Run()]
    assert follower.expected == 7


@pytest.mark.parametrize("full", [True, False])
def test_a_plan_heard_twice_runs_once(full: bool) -> None:
    _, verdicts = hear(plan(1, full=True), plan(2, full=full), plan(2, full=full), plan(1, full=True))
    assert verdicts == [Run(), Run(), Ignore("duplicate"), Ignore("duplicate")]


def test_a_late_plan_that_fills_a_gap_is_run() -> None:
    _, verdicts = hear(plan(1, full=True), plan(3), plan(2), plan(3))
    assert verdicts == [Run(), Ask(2, "gap"), Run(), Run()]


def test_a_new_scheduler_is_followed_from_its_full_plan_and_the_old_one_ignored_then() -> None:
    follower, verdicts = hear(
        plan(1, full=True), plan(1, "second"), plan(2), plan(2, "second", full=True), plan(3), plan(3, "second")
    )
    assert verdicts == [Run(), Ask(2, "epoch"), Run(), Run(), Ignore("old epoch"), Run()]
    assert follower.epoch == "second"


def test_a_replaced_scheduler_cannot_come_back_with_a_full_plan() -> None:
    _, verdicts = hear(plan(1, full=True), plan(1, "second", full=True), plan(2, full=True))
    assert verdicts == [Run(), Run(), Ignore("old epoch")]


def test_deciding_changes_nothing_but_what_it_returns() -> None:
    start = Follower("first", 5)
    assert follow(start, plan(5)) == follow(start, plan(5))
    assert start == Follower("first", 5)
