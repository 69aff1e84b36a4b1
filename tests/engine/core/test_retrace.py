"""Plans are made again from the record, and one that was changed is named."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from bus.scrubbing import sampled_by, scrubbed_plan
from engine.core import diary
from engine.core.retrace import CannotRetrace, Divergence, Retrace
from engine.core.scheduler import Scheduler
from schemas.generation import Accepted
from schemas.steps import Began, Resync, StepPlan, Submitted, ToldMore, Tried
from tests.engine.core.test_scheduler import answered, asked
from tests.engine.core.test_scheduler_policies import made, submit


def recorded(scheduler: Scheduler, steps: int = 10_000, started: int = 0) -> list[StepPlan]:
    """Run until nothing is left to do; return the plans as the record has them."""
    plans: list[StepPlan] = []
    for now in range(started, started + steps):
        plan = scheduler.plan(now)
        if plan is None:
            break
        plans.append(msgspec.json.decode(msgspec.json.encode(plan), type=StepPlan))
        scheduler.apply(answered(plan))
    return plans


def story(**limits: Any) -> list[StepPlan]:
    """Two requests that do not fit together, one that is aborted, one that is late, and a new worker."""
    given = {"blocks": 12, "block_size": 4, "max_in_flight": 1, **limits}
    scheduler = made(**given)
    for name, first in (("a", 0), ("b", 100)):
        assert isinstance(scheduler.submit(asked(name, range(first, first + 20), 16)), Accepted)
    plans = recorded(scheduler, 7)
    scheduler.submit(asked("c", range(8), 4))
    scheduler.submit(replace(asked("d", range(8), 4), deadline=9))
    scheduler.abort("c")
    scheduler.expire(9)
    scheduler.resync(Resync("worker-2", 1, "started", given["blocks"] - 1))
    scheduler.forget_prefixes()
    return [*plans, *recorded(scheduler, started=7)]


def followed(plans: list[StepPlan]) -> Divergence | None:
    """Follow up to the first difference."""
    retrace = Retrace()
    return next((found for plan in plans if (found := retrace.follow(plan)) is not None), None)


@pytest.mark.parametrize("window", [None, 6])
def test_a_record_from_before_there_were_groups_of_layers_makes_the_same_plans(window: int | None) -> None:
    first, *others = story(window=window)
    began, *told = first.told
    assert isinstance(began, Began)
    limits = {name: limit for name, limit in began.limits.items() if name not in {"groups", "windowed"}}
    assert len(limits) == len(began.limits) - 2
    assert followed([replace(first, told=(Began(limits), *told)), *others]) is None


def test_in_a_record_from_before_anybody_waited_for_anothers_beginning_nobody_does() -> None:
    before = _crowd(least_shared=1000)
    began, *told = before[0].told
    assert isinstance(began, Began)
    limits = {name: limit for name, limit in began.limits.items() if name != "least_shared"}
    assert followed([replace(before[0], told=(Began(limits), *told)), *before[1:]]) is None
    assert _crowd() != before


def test_in_a_record_from_before_a_last_block_that_is_not_full_was_found_none_is() -> None:
    before = _conversation(least_tail=1000)
    began, *told = before[0].told
    assert isinstance(began, Began)
    limits = {name: limit for name, limit in began.limits.items() if name != "least_tail"}
    assert followed([replace(before[0], told=(Began(limits), *told)), *before[1:]]) is None
    assert _conversation() != before


def test_in_a_record_from_before_it_was_a_limit_agents_reserved_more() -> None:
    before = _agents(reserved=0.85)
    began, *told = before[0].told
    assert isinstance(began, Began)
    limits = {name: limit for name, limit in began.limits.items() if name != "reserved"}
    assert followed([replace(before[0], told=(Began(limits), *told)), *before[1:]]) is None
    assert [plan.decisions for plan in _agents()] != [plan.decisions for plan in before]


def _agents(**limits: Any) -> list[StepPlan]:
    """The second may begin beside the first where 85 of a hundred tokens are reserved at most, and not where 78 are."""
    scheduler = made(**{"blocks": 63, "context_length": 1000, "policy": "agents", **limits})
    submit(scheduler, "a", 400)
    submit(scheduler, "b", 150)
    return recorded(scheduler)


def _conversation(**limits: Any) -> list[StepPlan]:
    scheduler = made(**{"blocks": 64, "context_length": 400, **limits})
    submit(scheduler, "a", 100)
    plans = recorded(scheduler)
    submit(scheduler, "b", 110)
    return [*plans, *recorded(scheduler)]


def _crowd(**limits: Any) -> list[StepPlan]:
    scheduler = made(**{"blocks": 64, "context_length": 400, **limits})
    for name in "abc":
        submit(scheduler, name, 100)
    return recorded(scheduler)


@pytest.mark.parametrize("windowed", [1, 2])
def test_plans_for_groups_of_layers_come_out_as_they_were_recorded(windowed: int) -> None:
    plans = story(blocks=33, window=6, groups=3, windowed=windowed)
    assert any(plan.preempted for plan in plans) == (windowed == 1), "there is room for both if two groups hold little"
    assert all(len(part.blocks) % 3 == 0 for plan in plans for part in plan.slices)
    assert followed(plans) is None


def test_every_plan_comes_out_as_it_was_recorded() -> None:
    plans = story()
    assert any(plan.preempted for plan in plans)
    kinds = {type(told).__name__ for plan in plans for told in plan.told}
    assert kinds == {"Began", "Submitted", "Aborted", "Expired", "Applied", "Resynced", "Forgot"}
    assert followed(plans) is None


def test_the_tokens_of_a_request_that_begins_at_once_are_recorded_once() -> None:
    first = story()[0]
    assert [told.submit.prompt for told in first.told if isinstance(told, Submitted)] == [(), ()]
    assert [len(arrival.tokens) for arrival in first.arrivals] == [20, 20]


@pytest.mark.parametrize("field", ["slices", "arrivals", "preempted", "gone"])
def test_a_plan_that_was_changed_is_named_with_what_was_changed(field: str) -> None:
    plans = story()
    at = next(index for index, plan in enumerate(plans) if index and getattr(plan, field))
    plans[at] = replace(plans[at], **{field: getattr(plans[at], field)[:-1]})
    found = followed(plans)
    assert found is not None
    assert (found.n, found.field) == (at + 1, field)
    assert len(found.recorded) < len(found.made)


def test_other_limits_than_those_it_had_give_other_plans() -> None:
    plans = story()
    (began, *rest) = plans[0].told
    assert isinstance(began, Began)
    limits = {**began.limits, "prefill_chunk": 4}
    plans[0] = replace(plans[0], told=(replace(began, limits=limits), *rest))
    found = followed(plans)
    assert found is not None
    assert found.field == "slices"


def test_missing_plans_are_said_by_number() -> None:
    plans = story()
    with pytest.raises(CannotRetrace, match=r"^plans 3 to 5 are missing$"):
        followed([*plans[:2], *plans[5:]])
    with pytest.raises(CannotRetrace, match=r"^plans 1 to 1 are missing$"):
        followed(plans[1:])


def test_what_was_told_while_no_plan_could_be_made_is_told_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diary, "MOST", 4)
    scheduler = made(max_in_flight=1)
    scheduler.submit(asked("a", range(20)))
    first = scheduler.plan(0)
    assert first is not None
    more: list[ToldMore] = []
    for name in "bcdefg":
        scheduler.submit(asked(name, range(20)))
        scheduler.abort(name)
        more += filter(None, [scheduler.told_more()])
    assert [(len(one.told), one.n) for one in more] == [(4, 1), (4, 1), (4, 1)]
    scheduler.apply(answered(first))
    retrace = Retrace()
    assert retrace.follow(first) is None
    for one in more:
        retrace.follow_more(msgspec.json.decode(msgspec.json.encode(one), type=ToldMore))
    assert [retrace.follow(plan) for plan in recorded(scheduler)] == [None] * 7
    with pytest.raises(CannotRetrace, match="missing"):
        Retrace().follow_more(more[0])


def test_a_try_that_comes_to_a_plan_after_all_is_no_record_of_ours() -> None:
    plans = story()
    plans[1] = replace(plans[1], told=(*plans[1].told, Tried(0)))
    with pytest.raises(CannotRetrace, match="after plan 1 a plan comes out where none did"):
        followed(plans)


def _erased(plans: list[StepPlan], name: str) -> list[StepPlan]:
    sampled = {plan.n: sampled_by(plan) for plan in plans}
    return [scrubbed_plan(plan, name.__eq__, sampled) for plan in plans]


def test_a_request_without_tokens_that_shared_none_and_ended_at_its_limit_is_planned_as_before() -> None:
    plans = _erased(story(), "b")
    assert plans != story()
    retrace = Retrace()
    assert [retrace.follow(plan) for plan in plans] == [None] * len(plans)
    assert retrace.erased == 1


def test_who_differs_after_tokens_were_taken_out_of_a_record_can_see_that_they_were() -> None:
    plans = _erased(_crowd(), "a")
    retrace = Retrace()
    found = next((found for plan in plans if (found := retrace.follow(plan)) is not None), None)
    assert found is not None, "b and c are found to begin as a does no more"
    assert retrace.erased == 1
    assert Retrace().erased == 0
