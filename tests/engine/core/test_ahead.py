"""Of requests that begin with the same, one computes it and the others wait, where that saves enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.core.scheduler import Scheduler
from schemas.generation import Accepted, Sampling
from schemas.steps import Resync, StepPlan, StepResult
from tests.engine.core.test_retrace import followed
from tests.engine.core.test_scheduler import answered, asked, planned, run
from tests.engine.core.test_scheduler_policies import made, stepped, work

SYSTEM = range(1000, 1128)
"""What all begin with: 8 blocks."""


def ask(scheduler: Scheduler, name: str, own: int = 20, begin: Sequence[int] = SYSTEM, **more: Any) -> None:
    """Submit a request with some tokens of its own after a beginning."""
    first = 2000 + 100 * ord(name[0])
    request = replace(asked(name, (*begin, *range(first, first + own))), **more)
    assert isinstance(scheduler.submit(request), Accepted)


def waiting(scheduler: Scheduler) -> dict[str, str]:
    """What each waits for."""
    return dict(scheduler.waits().reasons)


def test_of_a_crowd_one_computes_the_beginning_and_the_others_find_it() -> None:
    scheduler = made(max_in_flight=2)
    for name in "abcd":
        ask(scheduler, name)
    first, second = planned(scheduler), planned(scheduler)
    assert (work(first), work(second)) == ({"a": 148}, {"a": 1})
    said = "request a to compute 80 tokens that both begin with"
    assert waiting(scheduler) == dict.fromkeys("bcd", said)
    assert scheduler.waits().chain() == f"3 waiting, 1 running; b waits for {said}; no worker has come"
    scheduler.apply(answered(first))
    third = planned(scheduler)
    assert work(third) == {"a": 1, "b": 20, "c": 20, "d": 20}
    assert [arrival.computed for arrival in third.arrivals] == [128] * 3
    assert not waiting(scheduler)


def test_who_could_save_little_begins_at_once() -> None:
    scheduler = made(blocks=256)
    ask(scheduler, "a")
    ask(scheduler, "b", own=200)  # 128 of 328 are less than half
    ask(scheduler, "c", begin=SYSTEM[:48], own=1)  # 48 are few
    ask(scheduler, "d", own=120)
    assert work(planned(scheduler)).keys() == {"a", "b", "c"}
    assert waiting(scheduler).keys() == {"d"}


def test_what_is_found_already_is_no_reason_to_wait() -> None:
    scheduler = made(blocks=256)
    ask(scheduler, "a")
    run(scheduler)
    ask(scheduler, "b", own=90, read_cache=False)
    ask(scheduler, "c")
    assert work(planned(scheduler)) == {"b": 218, "c": 20}


@pytest.mark.parametrize("more", [{"tenant": "other"}, {"cache_salt": "salt"}, {"read_cache": False}])
def test_nobody_waits_for_what_it_may_not_find(more: dict[str, Any]) -> None:
    scheduler = made()
    ask(scheduler, "a")
    ask(scheduler, "b", **more)
    assert work(planned(scheduler)) == {"a": 148, "b": 148}


def test_who_is_told_of_every_prompt_token_computes_it_and_waits_for_nobody() -> None:
    scheduler = made()
    ask(scheduler, "a")
    ask(scheduler, "b", sampling=Sampling(max_tokens=4, prompt_logprobs=0))
    assert work(planned(scheduler)).keys() == {"a", "b"}


def _abort(scheduler: Scheduler, plan: StepPlan) -> None:
    scheduler.abort("a")


def _late(scheduler: Scheduler, plan: StepPlan) -> None:
    assert [event.finish for event in scheduler.expire(50)] == ["timeout"]


def _fail(scheduler: Scheduler, plan: StepPlan) -> None:
    (event,) = scheduler.apply(StepResult(plan.n, plan.epoch, "worker", (), errors=(("a", "broken"),)))
    assert event.finish == "error"


@pytest.mark.parametrize("ends", [_abort, _late, _fail])
def test_when_the_one_waited_for_is_gone_the_next_is_the_first(ends: Callable[[Scheduler, StepPlan], None]) -> None:
    scheduler = made(prefill_chunk=32)
    ask(scheduler, "a", deadline=40)
    ask(scheduler, "b")
    ask(scheduler, "c")
    plan = planned(scheduler)
    assert work(plan) == {"a": 32}
    ends(scheduler, plan)
    assert work(planned(scheduler)) == {"b": 32}
    assert waiting(scheduler) == {"c": "request b to compute 80 tokens that both begin with"}


def test_who_waits_may_end_and_its_reason_goes_with_the_one_it_waited_for() -> None:
    scheduler = made(prefill_chunk=32)
    for name in "abc":
        ask(scheduler, name)
    planned(scheduler)
    assert scheduler.abort("b") is not None
    scheduler.abort("a")
    assert waiting(scheduler) == {"c": "the result of step 1"}
    _, events = run(scheduler)
    assert {event.request for event in events if event.finish} == {"c"}


def test_after_a_new_worker_came_the_first_is_the_first_again() -> None:
    scheduler = made(prefill_chunk=64)
    ask(scheduler, "a")
    ask(scheduler, "b")
    planned(scheduler)
    scheduler.resync(Resync("worker-2", 1, "started", 64))
    assert work(planned(scheduler)) == {"a": 64}
    assert waiting(scheduler).keys() == {"b"}


def test_a_lost_beginning_is_not_waited_for() -> None:
    scheduler = made(blocks=256, prefill_chunk=64, max_in_flight=1)
    ask(scheduler, "a", begin=range(1000, 1300))
    ask(scheduler, "b", begin=range(1000, 1300))
    stepped(scheduler)
    scheduler.forget_prefixes()
    assert work(planned(scheduler)) == {"a": 64, "b": 64}


def test_nobody_waits_for_a_less_urgent_one() -> None:
    scheduler = made(policy="priority", prefill_chunk=64)
    ask(scheduler, "a", priority=1)
    planned(scheduler)
    ask(scheduler, "b", priority=0)
    ask(scheduler, "c", priority=1)
    assert work(planned(scheduler)) == {"a": 64, "b": 64}
    assert waiting(scheduler).keys() == {"c"}
    scheduler = made(policy="priority")
    ask(scheduler, "a", priority=1)
    planned(scheduler)
    ask(scheduler, "b", priority=0)
    assert work(planned(scheduler)) == {"a": 1, "b": 148}


def test_nobody_waits_for_a_long_prompt_that_gets_nothing_done() -> None:
    scheduler = made(blocks=256, long_prefill=100, max_step_tokens=64, prefill_chunk=32, max_in_flight=1)
    ask(scheduler, "z", begin=range(300))
    ask(scheduler, "a")
    assert work(stepped(scheduler)[0]) == {"z": 32, "a": 32}
    ask(scheduler, "b")
    # `a` is the second of the long ones: it gets what newcomers leave, and `b` would have it get it all
    assert work(planned(scheduler)) == {"z": 32, "b": 32}


def test_others_begin_meanwhile_but_take_no_seat_and_no_blocks_of_those_that_wait() -> None:
    scheduler = made(max_running=3, max_in_flight=1)
    ask(scheduler, "a")
    ask(scheduler, "b")
    ask(scheduler, "x", begin=range(30))
    ask(scheduler, "y", begin=range(40, 70))
    assert work(stepped(scheduler)[0]) == {"a": 148, "x": 50}
    assert work(planned(scheduler)) == {"a": 1, "x": 1, "b": 20}
    scheduler = made(blocks=21, max_in_flight=1)
    ask(scheduler, "a")
    ask(scheduler, "b", own=90)  # 14 blocks, 6 of which it lacks still when `a` is done
    ask(scheduler, "x", begin=range(60))
    assert work(stepped(scheduler)[0]) == {"a": 148}
    assert "b" in work(planned(scheduler))


def test_who_shares_more_with_one_that_waits_waits_for_that() -> None:
    scheduler = made(blocks=256, max_in_flight=1)
    ask(scheduler, "a")
    longer = (*SYSTEM, *range(1500, 1600))
    ask(scheduler, "b", begin=longer)
    ask(scheduler, "c", begin=longer, own=60)  # what it shares with `a` is less than half
    assert work(stepped(scheduler)[0]) == {"a": 148}
    assert work(stepped(scheduler)[0]) == {"a": 1, "b": 120}
    last = stepped(scheduler)[0]
    assert work(last) == {"a": 1, "b": 1, "c": 64}
    assert [arrival.computed for arrival in last.arrivals] == [224]


PIECES = (range(100, 170), range(200, 290), range(300, 310))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    prompts=st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=3), min_size=2, max_size=7),
    gone=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6)), max_size=3),
    chunk=st.sampled_from([16, 50, 512]),
    step=st.sampled_from([40, 100, 2048]),
    depth=st.integers(1, 3),
    policy=st.sampled_from(["fcfs", "priority", "agents"]),
)
def test_everybody_comes_to_an_end_and_nothing_is_computed_more_often(
    prompts: list[list[range]], gone: list[tuple[int, int]], chunk: int, step: int, depth: int, policy: str
) -> None:
    """With room for all, what waiting costs in positions is less or equal; and the record makes the same plans."""
    spent = []
    for least in (16, 100_000):
        scheduler = made(
            blocks=400,
            prefill_chunk=chunk,
            max_step_tokens=step,
            max_in_flight=depth,
            policy=policy,
            least_shared=least,
        )
        for number, pieces in enumerate(prompts):
            tokens = (*(token for piece in pieces for token in piece), 5000 + number)
            scheduler.submit(replace(asked(str(number), tokens, 2), priority=number % 2))
        plans, ended = list[StepPlan](), set[str]()
        done = 0
        while len(ended) < len(prompts):
            aborted = [str(name) for at, name in gone if at == len(plans) and name < len(prompts)]
            ended.update(event.request for name in aborted if (event := scheduler.abort(name)) is not None)
            while (plan := scheduler.plan(len(plans))) is not None:
                plans.append(plan)
            scheduler.check()
            assert done < len(plans) or len(ended) == len(prompts), f"nothing moves: {scheduler.waits()}"
            if done < len(plans):
                ended.update(event.request for event in scheduler.apply(answered(plans[done])) if event.finish)
                done += 1
        spent.append(sum(sum(work(plan).values()) for plan in plans))
        assert followed(plans) is None
    assert gone or spent[0] <= spent[1]
