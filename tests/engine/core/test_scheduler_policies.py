"""Who begins, who gives way, who must wait, and who runs out of time."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from engine.config import SchedulerConfig
from engine.core.scheduler import Scheduler
from schemas.generation import Accepted, Refused, Sampling
from schemas.steps import RequestEvent, StepPlan
from tests.engine.core.test_scheduler import answered, asked, planned, run


def made(**limits: Any) -> Scheduler:
    return Scheduler(SchedulerConfig(**{"blocks": 64, "context_length": 1000, "watermark": 0.0, **limits}), "epoch")


def submit(scheduler: Scheduler, name: str, prompt: int = 4, tokens: int = 8, *, first: int = 0, **more: Any) -> None:
    request = replace(asked(name, range(first, first + prompt), tokens), **more)
    assert isinstance(scheduler.submit(request), Accepted)


def work(plan: StepPlan) -> dict[str, int]:
    """Say how many positions of each request a step computes."""
    return {part.request: part.count for part in plan.slices}


def stepped(scheduler: Scheduler) -> tuple[StepPlan, list[RequestEvent]]:
    plan = planned(scheduler)
    return plan, scheduler.apply(answered(plan))


# priority


def test_the_lower_priority_begins_first_and_of_equals_whoever_came_first() -> None:
    scheduler = made(max_running=1, policy="priority")
    for name, priority in (("a", 1), ("b", 0), ("c", 1), ("d", -3)):
        submit(scheduler, name, tokens=1, priority=priority)
    plans, _ = run(scheduler)
    assert [part.request for plan in plans for part in plan.slices] == ["d", "b", "a", "c"]


def test_first_come_first_served_heeds_no_priority() -> None:
    scheduler = made(max_running=1)
    for name, priority in (("a", 1), ("b", -1)):
        submit(scheduler, name, tokens=1, priority=priority)
    plans, _ = run(scheduler)
    assert [part.request for plan in plans for part in plan.slices] == ["a", "b"]


def test_an_urgent_request_takes_the_seat_of_the_least_urgent_and_that_one_comes_back_and_ends() -> None:
    scheduler = made(max_running=2, policy="priority", max_in_flight=1)
    submit(scheduler, "b", priority=2)
    submit(scheduler, "a", priority=1)
    stepped(scheduler)
    submit(scheduler, "now", tokens=2, priority=0)
    plan, _ = stepped(scheduler)
    assert plan.preempted == ("b",)
    assert set(work(plan)) == {"a", "now"}
    _, events = run(scheduler)
    assert {event.request: event.finish for event in events if event.finish} == dict.fromkeys(
        ("a", "now", "b"), "length"
    )
    (last,) = [event for event in events if event.request == "b" and event.finish]
    assert last.preemptions == 1


def test_nobody_gives_way_to_an_equal() -> None:
    scheduler = made(max_running=1, policy="priority", max_in_flight=1)
    submit(scheduler, "a", priority=1)
    stepped(scheduler)
    submit(scheduler, "b", priority=1)
    plan, _ = stepped(scheduler)
    assert plan.preempted == ()
    assert set(work(plan)) == {"a"}


def test_blocks_are_taken_from_less_urgent_ones_only_if_that_is_enough() -> None:
    scheduler = made(blocks=8, block_size=4, policy="priority", max_in_flight=1)
    submit(scheduler, "urgent", 12, 4, priority=0)
    submit(scheduler, "slow", 8, 4, first=100, priority=5)
    stepped(scheduler)
    submit(scheduler, "long", 20, 4, first=200, priority=1)
    plan, _ = stepped(scheduler)
    assert plan.preempted == (), "five blocks are needed, and only three would be idle"
    submit(scheduler, "short", 8, 1, first=300, priority=-1)
    plan, _ = stepped(scheduler)
    assert plan.preempted == ("slow",)
    assert "short" in work(plan)


def test_whoever_grows_takes_blocks_from_the_last_in_rank() -> None:
    scheduler = made(blocks=6, block_size=4, policy="priority", max_in_flight=1)
    submit(scheduler, "slow", 4, 12, priority=9)
    submit(scheduler, "soon", 4, 16, first=100, priority=1)
    plans, events = run(scheduler)
    assert {name for plan in plans for name in plan.preempted} == {"slow"}
    assert {event.finish for event in events if event.finish} == {"length"}


def test_a_long_prompt_that_gave_way_and_begins_again_has_one_part_of_the_step() -> None:
    scheduler = made(
        blocks=300,
        context_length=4000,
        max_step_tokens=1024,
        prefill_chunk=256,
        long_prefill=512,
        max_in_flight=1,
        policy="priority",
    )
    for number in range(3):
        submit(scheduler, f"v{number}", 1500, 4, first=10_000 * number, priority=5)
    stepped(scheduler)
    stepped(scheduler)
    submit(scheduler, "urgent", 960, 4, first=90_000)
    computed: dict[str, int] = {}
    while (plan := scheduler.plan(0)) is not None:
        computed.update({arrival.request: arrival.computed for arrival in plan.arrivals})
        for part in plan.slices:
            assert part.start == computed.get(part.request, part.start), "positions are left out"
            computed[part.request] = part.start + part.count
        scheduler.apply(answered(plan))
        scheduler.check()


def test_no_more_give_way_than_is_needed_and_their_promises_count() -> None:
    scheduler = made(blocks=20, block_size=4, max_step_tokens=8, prefill_chunk=8, policy="priority", max_in_flight=1)
    submit(scheduler, "a", 32, 4, priority=5)
    submit(scheduler, "b", 32, 4, first=100, priority=5)
    stepped(scheduler)
    submit(scheduler, "urgent", 8, 1, first=200)
    plan, _ = stepped(scheduler)
    assert plan.preempted in {(), ("b",)}
    assert "urgent" in work(plan)


def test_blocks_that_the_urgent_one_begins_with_itself_are_not_gained() -> None:
    scheduler = made(blocks=10, block_size=4, policy="priority", max_in_flight=1)
    submit(scheduler, "w", 8, 20, first=300, priority=0)
    submit(scheduler, "v", 16, 8, priority=5)
    stepped(scheduler)
    submit(scheduler, "u", 28, 1, priority=1)
    plan, _ = stepped(scheduler)
    assert plan.preempted == (), "v holds four blocks, and u would begin with those very four"


def test_the_more_urgent_of_two_long_prompts_is_the_one_that_moves() -> None:
    scheduler = made(
        block_size=4, max_step_tokens=16, prefill_chunk=8, long_prefill=20, max_in_flight=1, policy="priority"
    )
    submit(scheduler, "later", 60, priority=5)
    stepped(scheduler)
    submit(scheduler, "urgent", 60, first=100, priority=1)
    stepped(scheduler)
    for number in range(3):
        submit(scheduler, f"short{number}", 8, first=300 + 20 * number, priority=3)
    plan, _ = stepped(scheduler)
    assert work(plan)["urgent"] == 8


# room


def test_too_many_waiting_tokens_refuse_the_next_but_a_long_prompt_alone_is_taken() -> None:
    scheduler = made(max_waiting_tokens=100)
    submit(scheduler, "a", 200)
    answer = scheduler.submit(asked("b", range(10)))
    assert isinstance(answer, Refused)
    assert (answer.reason, answer.retry_after_ms) == ("overloaded", 1000)
    assert "200 prompt tokens are waiting already, of 100" in answer.message
    stepped(scheduler)
    submit(scheduler, "b", 10)


def test_a_watermark_of_blocks_stays_idle_for_those_that_run_and_does_not_stop_the_first() -> None:
    scheduler = made(blocks=10, block_size=4, watermark=0.5, max_in_flight=1)
    submit(scheduler, "a", 24, 4)
    plan, _ = stepped(scheduler)
    assert set(work(plan)) == {"a"}
    submit(scheduler, "b", 4, 1, first=100)
    plan, _ = stepped(scheduler)
    assert set(work(plan)) == {"a"}, "three blocks are idle, and five are to stay so"
    plans, _ = run(scheduler)
    assert "b" in {part.request for plan in plans for part in plan.slices}


def test_of_long_prompts_the_first_moves_on_and_the_others_take_what_shorter_ones_leave() -> None:
    scheduler = made(block_size=4, max_step_tokens=16, prefill_chunk=8, long_prefill=20, max_in_flight=1)
    submit(scheduler, "long-1", 60)
    submit(scheduler, "long-2", 60, first=100)
    plan, _ = stepped(scheduler)
    assert work(plan) == {"long-1": 8, "long-2": 8}
    submit(scheduler, "short", 12, first=300)
    plan, _ = stepped(scheduler)
    assert work(plan) == {"long-1": 8, "short": 8}
    plan, _ = stepped(scheduler)
    assert work(plan) == {"long-1": 8, "short": 4, "long-2": 4}


# deadlines


def test_a_request_ends_at_its_deadline_whether_it_runs_or_waits() -> None:
    scheduler = made(max_running=1, max_in_flight=1)
    submit(scheduler, "a", deadline=30)
    submit(scheduler, "b", deadline=20)
    submit(scheduler, "c")
    _, events = stepped(scheduler)
    assert [event.tokens for event in events] == [(7,)]
    assert scheduler.deadlines.next == 20
    assert scheduler.expire(19) == []
    assert [(event.request, event.finish) for event in scheduler.expire(20)] == [("b", "timeout")]
    assert scheduler.deadlines.next == 30
    (ended,) = scheduler.expire(99)
    assert (ended.request, ended.start, ended.tokens, ended.finish) == ("a", 1, (), "timeout")
    assert scheduler.deadlines.next is None
    plan, _ = stepped(scheduler)
    assert (plan.gone, set(work(plan))) == (("a",), {"c"})


def test_deadlines_of_requests_that_are_over_are_not_kept_for_ever() -> None:
    scheduler = made()
    for number in range(1000):
        submit(scheduler, f"r{number}", deadline=1 << 61)
        scheduler.abort(f"r{number}")
    assert len(scheduler.deadlines._heap) < 100
    submit(scheduler, "last", deadline=10)
    assert [event.request for event in scheduler.expire(10)] == ["last"]


def test_what_is_over_before_its_deadline_does_not_end_again() -> None:
    scheduler = made()
    submit(scheduler, "a", tokens=1, deadline=30)
    _, events = run(scheduler)
    assert [event.finish for event in events] == ["length"]
    assert scheduler.expire(30) == []


# the prefix cache


def cached(scheduler: Scheduler, name: str, **more: Any) -> int:
    """Ask the same as always; return how many tokens of it were in the cache."""
    submit(scheduler, name, 40, 1, **more)
    _, events = run(scheduler)
    return events[-1].cached


def test_only_those_with_the_same_salt_share_and_whoever_wants_to_computes_afresh() -> None:
    scheduler = made(block_size=8)
    assert [cached(scheduler, "a"), cached(scheduler, "b")] == [0, 32]
    assert cached(scheduler, "c", read_cache=False) == 0
    assert [cached(scheduler, "d", cache_salt="x"), cached(scheduler, "e", cache_salt="x")] == [0, 32]
    assert cached(scheduler, "f", cache_salt="x", tenant="evil") == 0
    assert cached(scheduler, "g", cache_salt="", tenant="acmex") == 0
    assert (scheduler.statistics().prompt_tokens, scheduler.statistics().cached_tokens) == (7 * 40, 64)


def test_only_those_with_the_same_adapter_share() -> None:
    scheduler = made(block_size=8)

    def known(name: str, adapter: str, salt: str = "") -> int:
        sampling = Sampling(max_tokens=1, adapter=adapter)
        assert isinstance(
            scheduler.submit(replace(asked(name, range(40), 1), sampling=sampling, cache_salt=salt)), Accepted
        )
        _, events = run(scheduler)
        return events[-1].cached

    assert [known("a", ""), known("b", "x"), known("c", "y"), known("d", "x", "y")] == [0, 0, 0, 0]
    assert [known("e", ""), known("f", "x"), known("g", "x", "y")] == [32, 32, 32]
    assert known("h", "", "x") == 0, "a salt is no adapter"


def test_a_cache_that_was_emptied_has_nothing_while_running_requests_go_on() -> None:
    scheduler = made(block_size=8, max_in_flight=1)
    submit(scheduler, "a", 40, 6)
    stepped(scheduler)
    assert scheduler.forget_prefixes() == 5
    assert scheduler.forget_prefixes() == 0
    scheduler.check()
    _, events = run(scheduler)
    assert events[-1].finish == "length"
    assert cached(scheduler, "b") == 0


def test_the_end_tells_how_often_a_request_gave_way_and_what_was_computed_again() -> None:
    scheduler = made(blocks=6, block_size=4, max_in_flight=1)
    submit(scheduler, "a", 8, 12)
    submit(scheduler, "b", 8, 12, first=100)
    _, events = run(scheduler)
    (a, b) = (event for event in events if event.finish)
    assert (a.request, a.preemptions, a.recomputed) == ("a", 0, 0)
    assert (b.request, b.preemptions) == ("b", 1)
    assert 0 < b.recomputed <= 20
    assert all(event.preemptions == 0 for event in events if not event.finish)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_running": 0}, "max_running must be at least 1, not 0"),
        ({"watermark": 1.0}, "watermark is a share from 0 to less than 1, not 1.0"),
        ({"policy": "lottery"}, "policy is fcfs, priority or agents, not 'lottery'"),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.") + "$"):
        made(**limits)
