"""The scheduler in scenes: what it takes, what it plans, what it makes of results."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from engine.config import SchedulerConfig
from engine.core import prefix_cache
from engine.core.scheduler import Scheduler
from schemas.generation import Accepted, Refused, Sampling, Submit
from schemas.steps import RequestEvent, Resync, StepPlan, StepResult


def made(**limits: int) -> Scheduler:
    return Scheduler(SchedulerConfig(**{"blocks": 64, "context_length": 1000, **limits}), "epoch")


def asked(
    request: str, prompt: Iterable[int], max_tokens: int = 8, *, tenant: str = "acme", output: tuple[int, ...] = ()
) -> Submit:
    sampling = Sampling(max_tokens=max_tokens, stop_tokens=(2,))
    return Submit(request, tuple(prompt), sampling, "front", tenant, output=output)


def answered(plan: StepPlan, token: Callable[[str], int] = lambda request: 7) -> StepResult:
    """What a worker that samples `token` says."""
    sampled = tuple((part.request, token(part.request)) for part in plan.slices if part.sample)
    return StepResult(plan.n, plan.epoch, "worker", sampled)


def planned(scheduler: Scheduler) -> StepPlan:
    plan = scheduler.plan(0)
    assert plan is not None
    scheduler.check()
    return plan


def run(scheduler: Scheduler) -> tuple[list[StepPlan], list[RequestEvent]]:
    """Plan and answer, as far ahead as allowed, until nothing is left to do."""
    plans: list[StepPlan] = []
    events: list[RequestEvent] = []
    done = 0
    while True:
        while (plan := scheduler.plan(0)) is not None:
            plans.append(plan)
        if done == len(plans):
            return plans, events
        events += scheduler.apply(answered(plans[done]))
        scheduler.check()
        done += 1


def resync(worker: str, blocks: int = 64) -> Resync:
    return Resync(worker=worker, expected=0, reason="started", blocks=blocks)


@pytest.mark.parametrize("token", [-1, 2**32, 2**80])
@pytest.mark.parametrize("field", ["prompt", "output"])
def test_a_token_id_that_cannot_be_is_refused_by_its_field(field: str, token: int) -> None:
    scheduler = made()
    tokens = (*range(40), token)
    prompt, output = (tokens, ()) if field == "prompt" else ((1,), tokens)
    answer = scheduler.submit(asked("a", prompt, max_tokens=100, output=output))
    assert isinstance(answer, Refused)
    assert answer.reason == "invalid"
    assert answer.message.startswith(f"{field}:")
    assert scheduler.plan(0) is None


@pytest.mark.parametrize(
    ("submit", "reason"),
    [
        (asked("a", ()), "invalid"),
        (asked("a", (1,), max_tokens=0), "invalid"),
        (asked("a", range(1000)), "too_long"),
        (asked("a", (1,), max_tokens=64 * 8), "too_long"),
    ],
)
def test_what_can_never_run_is_refused(submit: Submit, reason: str) -> None:
    scheduler = made(block_size=8)
    answer = scheduler.submit(submit)
    assert isinstance(answer, Refused)
    assert answer.reason == reason
    assert scheduler.attach("a", 0) is None


def test_a_full_queue_refuses_with_a_time_to_come_again() -> None:
    scheduler = made(max_waiting=1, retry_after_ms=250)
    assert isinstance(scheduler.submit(asked("a", (1,))), Accepted)
    answer = scheduler.submit(asked("b", (1,)))
    assert isinstance(answer, Refused)
    assert (answer.reason, answer.retry_after_ms) == ("overloaded", 250)


def test_a_request_submitted_twice_runs_once() -> None:
    scheduler = made()
    for _ in range(2):
        assert isinstance(scheduler.submit(asked("a", range(20), max_tokens=3)), Accepted)
    plans, events = run(scheduler)
    assert sum(len(plan.arrivals) for plan in plans) == 1
    assert [event.tokens for event in events] == [(7,), (7,), (7,)]
    assert isinstance(scheduler.submit(asked("a", range(20), max_tokens=3)), Accepted)
    assert scheduler.plan(0) is None
    again = scheduler.attach("a", 1)
    assert again is not None
    assert (again.start, again.tokens, again.finish) == (1, (7, 7), "length")


def test_attaching_from_before_the_output_tells_nothing_of_the_prompt() -> None:
    scheduler = made()
    scheduler.submit(asked("a", range(20), output=(5, 6)))
    told = scheduler.attach("a", -3)
    assert told is not None
    assert (told.start, told.tokens) == (0, (5, 6))


@pytest.mark.parametrize(("output", "finish"), [((5, 2), "stop"), ((5, 6, 7), "length"), ((5, 6, 7, 8), "length")])
def test_a_resumed_request_that_was_over_is_not_run_again(output: tuple[int, ...], finish: str) -> None:
    scheduler = made()
    scheduler.submit(asked("a", range(20), max_tokens=3, output=output))
    told = scheduler.attach("a", 0)
    assert told is not None
    assert (told.tokens, told.finish) == (output, finish)
    assert scheduler.plan(0) is None
    scheduler.check()


def test_a_resumed_request_goes_on_after_its_output() -> None:
    scheduler = made()
    scheduler.submit(asked("a", range(20), max_tokens=3, output=(5,)))
    plans, events = run(scheduler)
    assert plans[0].arrivals[0].tokens == (*range(20), 5)
    assert plans[0].arrivals[0].prompt_tokens == 20
    assert [(event.start, event.tokens, event.finish) for event in events] == [(1, (7,), None), (2, (7,), "length")]


def test_a_sampled_slice_without_a_token_ends_its_request_alone() -> None:
    scheduler = made()
    scheduler.submit(asked("a", range(20)))
    scheduler.submit(asked("b", range(20)))
    plan = planned(scheduler)
    events = scheduler.apply(StepResult(plan.n, plan.epoch, "worker", (("b", 7),)))
    assert [(event.request, event.tokens, event.finish) for event in events] == [("a", (), "error"), ("b", (7,), None)]
    scheduler.check()
    _, events = run(scheduler)
    assert {event.request for event in events} == {"b"}
    assert events[-1].finish == "length"


def test_an_error_ends_its_request_alone() -> None:
    scheduler = made()
    scheduler.submit(asked("a", range(20)))
    scheduler.submit(asked("b", range(20)))
    plan = planned(scheduler)
    events = scheduler.apply(StepResult(plan.n, plan.epoch, "worker", (("b", 7),), (("a", "not finite"),)))
    assert [(event.request, event.finish) for event in events] == [("a", "error"), ("b", None)]
    scheduler.check()


def test_a_worker_with_less_memory_is_never_sent_a_block_it_lacks() -> None:
    scheduler = made(block_size=8)
    scheduler.submit(asked("large", range(100), max_tokens=100))
    scheduler.submit(asked("small", range(20)))
    planned(scheduler)
    events = scheduler.resync(resync("w1", blocks=8))
    assert [(event.request, event.finish) for event in events] == [("large", "error")]
    assert scheduler.statistics().idle_blocks == 8
    assert isinstance(scheduler.submit(asked("later", range(60))), Refused)
    scheduler.submit(asked("other", range(100, 130)))
    plans, events = run(scheduler)
    held = {block for plan in plans for part in (*plan.arrivals, *plan.slices) for block in part.blocks}
    assert held <= set(range(8))
    assert sorted(event.request for event in events if event.finish == "length") == ["other", "small"]


def test_a_larger_worker_brings_the_configured_memory_back() -> None:
    scheduler = made()
    scheduler.resync(resync("w1", blocks=8))
    assert scheduler.statistics().idle_blocks == 8
    scheduler.resync(resync("w2", blocks=1000))
    assert scheduler.statistics().idle_blocks == 64


def test_a_new_worker_s_memory_is_empty_and_a_known_one_s_is_not() -> None:
    scheduler = made()
    scheduler.resync(resync("w1"))
    scheduler.submit(asked("a", range(40)))
    scheduler.apply(answered(planned(scheduler)))
    planned(scheduler)
    scheduler.resync(resync("w1"))
    plan = planned(scheduler)
    assert plan.full
    assert (plan.arrivals[0].computed, len(plan.arrivals[0].blocks)) == (40, 3)
    assert plan.slices[0].start == 40
    scheduler.resync(resync("w2"))
    plan = planned(scheduler)
    assert plan.full
    assert (plan.arrivals[0].computed, plan.arrivals[0].tokens) == (0, (*range(40), 7))
    assert plan.slices[0].start == 0


def test_preempted_requests_are_among_those_gone_in_full_plans_too() -> None:
    scheduler = made(blocks=4, block_size=4)
    scheduler.resync(resync("w1", blocks=4))
    scheduler.submit(asked("a", range(6), max_tokens=10))
    scheduler.submit(asked("b", range(50, 52), max_tokens=8))
    seen: list[StepPlan] = []
    events: list[RequestEvent] = []
    for _ in range(40):
        plan = scheduler.plan(0)
        if plan is None:
            break
        assert set(plan.preempted) <= set(plan.gone)
        seen.append(plan)
        events += scheduler.apply(answered(plan))
        if not any(plan.preempted for plan in seen):
            scheduler.resync(resync("w1", blocks=4))
    assert any(plan.full and plan.preempted for plan in seen)
    assert [event.request for event in events if event.finish == "length"] == ["a", "b"]


def test_a_preempted_request_does_not_come_back_before_its_last_token_is_known() -> None:
    scheduler = made(blocks=4, block_size=4, max_in_flight=4)
    scheduler.submit(asked("a", range(8), max_tokens=8))
    scheduler.submit(asked("b", range(50, 53), max_tokens=8))
    plans = [planned(scheduler) for _ in range(3)]
    assert [len(plan.slices) for plan in plans] == [2, 2, 1]
    assert plans[2].preempted == ("b",)
    scheduler.abort("a")
    for plan in plans[:2]:
        assert scheduler.plan(0) is None
        scheduler.apply(answered(plan))
    assert planned(scheduler).arrivals[0].tokens == (50, 51, 52, 7, 7)


@pytest.mark.parametrize("blocks", [7, 8])
def test_a_slice_taken_back_for_an_older_request_is_planned_again(blocks: int) -> None:
    scheduler = made(blocks=blocks, block_size=4, prefill_chunk=1)
    scheduler.submit(asked("old", range(22), max_tokens=1))
    scheduler.submit(asked("young", (50,), max_tokens=19))
    plans, events = run(scheduler)
    assert [plan.preempted for plan in plans if plan.preempted] == [("young",)]
    assert [event.request for event in events if event.finish == "length"] == ["old", "young"]


def test_long_prompts_do_not_throw_each_other_out() -> None:
    scheduler = made(blocks=100, context_length=1600, max_step_tokens=64, prefill_chunk=64)
    scheduler.submit(asked("a", range(1000), max_tokens=20))
    scheduler.submit(asked("b", range(2000, 3000), max_tokens=20))
    plans, _ = run(scheduler)
    assert sum(part.count for plan in plans for part in plan.slices) == 2 * 1019
    assert scheduler.statistics().preemptions == 0


def test_a_request_that_must_wait_for_room_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = made(blocks=40)
    scheduler.submit(asked("a", range(400), max_tokens=50))
    scheduler.apply(answered(planned(scheduler)))
    scheduler.submit(asked("b", (*range(300), *range(3000, 3300))))
    assert not planned(scheduler).arrivals
    monkeypatch.setattr(prefix_cache, "blake2b", None)
    assert not planned(scheduler).arrivals
    assert scheduler.statistics().waiting == 1


def test_a_step_planned_for_a_request_that_had_ended_tells_nothing() -> None:
    scheduler = made(max_in_flight=3)
    scheduler.submit(asked("a", range(20)))
    first, second, third = planned(scheduler), planned(scheduler), planned(scheduler)
    ended = scheduler.apply(answered(first, lambda request: 2))
    assert [(event.tokens, event.finish) for event in ended] == [((2,), "stop")]
    assert second.slices
    assert scheduler.apply(answered(second)) == []
    assert scheduler.apply(StepResult(third.n, third.epoch, "worker", (), (("a", "unknown"),))) == []
    told = scheduler.attach("a", 0)
    assert told is not None
    assert told.tokens == (2,)
    assert scheduler.statistics().idle_blocks == 64
    scheduler.check()


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("max_tokens", [1, 2, 5])
def test_nothing_is_planned_beyond_max_tokens(max_tokens: int, depth: int) -> None:
    scheduler = made(max_in_flight=depth)
    scheduler.submit(asked("a", range(20), max_tokens=max_tokens))
    plans, events = run(scheduler)
    parts = [part for plan in plans for part in plan.slices]
    assert sum(part.sample for part in parts) == max_tokens == len(events)
    assert sum(part.count for part in parts) == 20 + max_tokens - 1


def test_nothing_is_planned_beyond_the_context() -> None:
    scheduler = made(context_length=24)
    scheduler.submit(asked("a", range(20), max_tokens=100))
    plans, events = run(scheduler)
    assert max(part.start + part.count for plan in plans for part in plan.slices) == 23
    assert [event.finish for event in events] == [None, None, None, "length"]


def test_eight_conversations_share_their_steps() -> None:
    scheduler = made(blocks=200)
    for turn in range(2):
        for number in range(8):
            history = [number, *range(100, 130 + 20 * turn)]
            scheduler.submit(asked(f"{number}-{turn}", history, max_tokens=12))
        plans, events = run(scheduler)
        assert len(plans) == 12
        assert all(len(plan.slices) == 8 for plan in plans)
        assert sum(event.finish == "length" for event in events) == 8
    # the second turn began with the first one's full blocks
    assert all(event.cached == 16 for event in events)


def test_a_tenant_does_not_begin_with_another_s_blocks() -> None:
    scheduler = made()
    for request, tenant in (("a", "acme"), ("b", "evil"), ("c", "acme")):
        scheduler.submit(asked(request, range(40), tenant=tenant))
        _, events = run(scheduler)
        assert {event.cached for event in events} == {39 if request == "c" else 0}


def test_a_conversation_goes_on_in_the_block_in_which_it_stopped() -> None:
    scheduler, history = made(), list(range(20))
    for turn, more in enumerate((3, 30, 5)):
        scheduler.submit(asked(f"{turn}", history, max_tokens=more))
        plans, events = run(scheduler)
        assert events[-1].cached == (len(history) - 4 if turn else 0), "the new ones, and the last that was said"
        assert sum(part.count for plan in plans for part in plan.slices) == (4 if turn else 20) + more - 1
        history += [token for event in events for token in event.tokens] + [31, 32, 33]


def test_of_two_who_go_on_from_one_end_one_has_its_block_and_the_other_computes_that_again() -> None:
    scheduler = made()
    scheduler.submit(asked("a", range(20), max_tokens=3))
    run(scheduler)
    for request in ("b", "c"):
        scheduler.submit(asked(request, [*range(20), 7, 7, 7, 1], max_tokens=3))
    plan = planned(scheduler)
    assert [(arrival.request, arrival.computed) for arrival in plan.arrivals] == [("b", 22), ("c", 16)]
    tables = [arrival.blocks for arrival in plan.arrivals]
    assert tables[0][0] == tables[1][0]
    assert tables[0][1:] != tables[1][1:]


def test_of_a_request_that_failed_only_whole_blocks_are_found() -> None:
    scheduler = made()
    scheduler.submit(asked("a", range(20), max_tokens=3))
    plan = planned(scheduler)
    scheduler.apply(answered(plan))
    plan = planned(scheduler)
    scheduler.apply(StepResult(plan.n, plan.epoch, "w", (), (("a", "not finite"),)))
    scheduler.submit(asked("b", range(20), max_tokens=3))
    assert [arrival.computed for arrival in planned(scheduler).arrivals] == [16]


def test_those_who_speak_are_not_held_up_by_a_long_prompt() -> None:
    scheduler = made(blocks=200, max_step_tokens=64, prefill_chunk=32)
    scheduler.submit(asked("a", range(20), max_tokens=100))
    scheduler.apply(answered(planned(scheduler)))
    scheduler.submit(asked("b", range(500)))
    for _ in range(16):
        plan = planned(scheduler)
        assert [part.request for part in plan.slices] == ["a", "b"]
        assert plan.slices[0].count == 1
        assert sum(part.count for part in plan.slices) <= 64
        scheduler.apply(answered(plan))


def test_an_aborted_request_leaves_the_queue_or_the_batch() -> None:
    scheduler = made(max_running=1)
    scheduler.submit(asked("a", range(20)))
    scheduler.submit(asked("b", range(20)))
    scheduler.apply(answered(planned(scheduler)))
    for request, tokens in (("b", ()), ("a", ())):
        event = scheduler.abort(request)
        assert event is not None
        assert (event.tokens, event.finish) == (tokens, "abort")
        assert scheduler.abort(request) is None
        scheduler.check()
    assert scheduler.abort("unknown") is None
    assert scheduler.plan(0) is None
    scheduler.submit(asked("c", range(20)))
    assert planned(scheduler).gone == ("a",)


def test_a_lost_result_is_planned_again_in_full() -> None:
    scheduler = made()
    scheduler.submit(asked("a", range(20)))
    first, second = planned(scheduler), planned(scheduler)
    assert scheduler.apply(answered(second)) == []
    again = planned(scheduler)
    assert again.full
    assert again.n == 3
    assert (again.slices[0].start, again.slices[0].count) == (0, 20)
    assert scheduler.apply(answered(first)) == []


def test_results_for_another_scheduler_are_not_ours() -> None:
    scheduler = made()
    scheduler.submit(asked("a", range(20)))
    plan = planned(scheduler)
    assert scheduler.apply(StepResult(plan.n, "before", "worker", (("a", 7),))) == []
    assert scheduler.statistics().in_flight == 1


def test_the_oldest_finished_requests_are_forgotten() -> None:
    scheduler = made(max_finished=2)
    for request in "abc":
        scheduler.submit(asked(request, range(4), max_tokens=1))
        run(scheduler)
    assert scheduler.attach("a", 0) is None
    assert scheduler.attach("b", 0) is not None


def test_of_a_finished_request_only_the_output_is_remembered() -> None:
    scheduler = made()
    scheduler.submit(asked("a", range(500), max_tokens=3, output=(5,)))
    run(scheduler)
    kept = scheduler._finished["a"]
    assert (kept.tokens, kept.keys, kept.blocks) == ([5, 7, 7], [], [])
    told = scheduler.attach("a", 1)
    assert told is not None
    assert (told.start, told.tokens, told.finish) == (1, (7, 7), "length")


@pytest.mark.parametrize("name", ["blocks", "block_size", "max_running", "max_in_flight"])
def test_limits_under_which_nothing_could_run_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        made(**{name: 0})
