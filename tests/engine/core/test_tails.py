"""The last block of a request, which is not full: who finds what of it, and when."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from engine.core.scheduler import Scheduler
from schemas.generation import Accepted, Sampling
from schemas.steps import Arrival
from tests.engine.core.test_scheduler import answered, asked, planned, resync, run
from tests.engine.core.test_scheduler_policies import made, stepped, submit


def told(scheduler: Scheduler, name: str, prompt: int | tuple[int, ...] = 10, **more: Any) -> Arrival:
    """Ask for one token behind the first numbers, or behind others; return what the worker is told."""
    tokens = tuple(range(prompt)) if isinstance(prompt, int) else prompt
    assert isinstance(scheduler.submit(replace(asked(name, tokens, 1), **more)), Accepted)
    plan, events = stepped(scheduler)
    assert [event.finish for event in events if event.request == name] == ["length"]
    (found,) = plan.arrivals
    return found


def known(prompt: int = 10) -> tuple[Scheduler, Arrival]:
    """A scheduler that has the first numbers in blocks of 8, and who found them last."""
    scheduler = made(block_size=8)
    told(scheduler, "first", prompt)
    return scheduler, told(scheduler, "known", prompt)


@pytest.mark.parametrize(
    "more",
    [
        {"tenant": "evil"},
        {"cache_salt": "x"},
        {"read_cache": False},
        {"sampling": Sampling(max_tokens=1, adapter="x")},
        {"sampling": Sampling(max_tokens=1, prompt_logprobs=0)},
    ],
)
@pytest.mark.parametrize("prompt", [6, 10])
def test_whoever_may_not_find_it_computes_it_and_leaves_it_to_whoever_may(prompt: int, more: dict[str, Any]) -> None:
    scheduler, _ = known(prompt)
    assert told(scheduler, "not", prompt, **more).computed == 0
    assert told(scheduler, "may", prompt).computed == prompt - 1


def test_what_is_to_be_told_of_a_prompt_is_not_found_and_what_is_before_it_is() -> None:
    scheduler, _ = known(14)
    judged = Sampling(max_tokens=1, prompt_logprobs=1, prompt_logprob_start=11)
    assert told(scheduler, "judged", 14, sampling=judged).computed == 11


def test_what_a_step_under_way_computes_is_not_found_when_its_request_is_aborted() -> None:
    scheduler = made(block_size=8, prefill_chunk=5)
    submit(scheduler, "a", 20)
    first, second = planned(scheduler), planned(scheduler)
    assert [(part.start, part.count) for part in second.slices] == [(5, 5)]
    scheduler.apply(answered(first))
    scheduler.abort("a")
    submit(scheduler, "b", 20)
    third = planned(scheduler)
    (found,) = third.arrivals
    assert (found.computed, found.blocks, third.gone) == (5, first.slices[0].blocks, ("a",))
    scheduler.apply(answered(second))
    submit(scheduler, "c", 20)
    (other,) = planned(scheduler).arrivals
    assert other.computed == 0, "it is the other's alone"


def test_one_that_gave_way_goes_on_in_its_block() -> None:
    scheduler = made(block_size=4, policy="priority", max_running=1, max_in_flight=1)
    submit(scheduler, "slow", 6, priority=5)
    began, _ = stepped(scheduler)
    submit(scheduler, "now", 6, 1, first=100)
    plan, _ = stepped(scheduler)
    assert plan.preempted == ("slow",)
    plan, _ = stepped(scheduler)
    (again,) = plan.arrivals
    assert (again.request, again.computed, again.blocks) == ("slow", 6, began.slices[0].blocks)
    _, events = run(scheduler)
    assert (events[-1].preemptions, events[-1].recomputed) == (1, 0)


def test_who_leaves_before_it_computed_anything_leaves_what_it_found_and_no_more() -> None:
    scheduler, before = known(14)
    scheduler.submit(asked("b", (*range(11), 99, 98, 97, 96)))
    plan = planned(scheduler)
    (found,) = plan.arrivals
    assert (found.computed, found.blocks) == (11, before.blocks)
    scheduler.abort("b")
    scheduler.apply(answered(plan))
    again = told(scheduler, "c", 14)
    assert (again.computed, again.blocks) == (11, before.blocks)


@pytest.mark.parametrize(("worker", "computed"), [("w", 9), ("another", 0)])
def test_it_is_there_after_a_plan_was_lost_and_not_when_the_worker_is_another(worker: str, computed: int) -> None:
    scheduler = made(block_size=8)
    scheduler.resync(resync("w"))
    told(scheduler, "first")
    submit(scheduler, "b", 10)
    (lost,) = planned(scheduler).arrivals
    assert lost.computed == 9
    scheduler.resync(resync(worker))
    plan = planned(scheduler)
    assert (plan.full, [one.computed for one in plan.arrivals]) == (True, [computed])


def test_of_two_that_begin_alike_the_longer_stays_and_else_the_new_one() -> None:
    scheduler, before = known(14)
    told(scheduler, "shorter", 12, read_cache=False)
    found = told(scheduler, "again", 14)
    assert (found.computed, found.blocks) == (13, before.blocks)
    told(scheduler, "parted", (*range(9), 99, 98), read_cache=False)
    assert told(scheduler, "last", 14).computed == 9


def test_nothing_is_remembered_of_those_whose_blocks_are_others_by_now() -> None:
    scheduler = made(blocks=8, block_size=4)
    for number in range(100):
        told(scheduler, f"r{number}", tuple(range(10 * number, 10 * number + 6)))
    cache = scheduler._memory.cache
    assert 0 < len(cache._tails) <= 8
    assert len(cache._rows) <= 8
    scheduler.forget_prefixes()
    assert (cache._tails, cache._rows, cache.places) == ({}, {}, {})
