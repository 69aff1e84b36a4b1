"""What no position to come sees is given up, and found again by those who need no more."""

from __future__ import annotations

from typing import Any

from engine.config import SchedulerConfig
from engine.core.prefix_cache import PrefixCache
from engine.core.request import LEFT
from engine.core.scheduler import Scheduler
from engine.core.tables import Tables
from schemas.generation import Accepted, Refused, Sampling, Submit
from schemas.steps import StepPlan, StepResult

SIZE, WINDOW = 4, 10


def scheduler(blocks: int = 64, **limits: Any) -> Scheduler:
    given: dict[str, Any] = {"window": WINDOW, "prefill_chunk": 8, "max_in_flight": 1, "watermark": 0.0} | limits
    return Scheduler(SchedulerConfig(blocks=blocks, context_length=1000, block_size=SIZE, **given), "epoch")


def submit(name: str, tokens: int, more: int = 1) -> Submit:
    sampling = Sampling(max_tokens=more)
    return Submit(request=name, prompt=tuple(range(tokens)), sampling=sampling, frontend="f", tenant="t")


def step(made: Scheduler) -> StepPlan | None:
    plan = made.plan(0)
    if plan is not None:
        sampled = tuple((part.request, 7) for part in plan.slices if part.sample)
        made.apply(StepResult(plan.n, plan.epoch, "worker", sampled))
    made.check()
    return plan


def test_a_long_request_holds_no_more_than_its_window_and_what_is_under_way() -> None:
    made, idle = scheduler(blocks=6), set()
    assert isinstance(made.submit(submit("long", 200, more=100)), Accepted)
    while step(made) is not None:
        idle.add(made.statistics().idle_blocks)
    assert idle <= {2, 3, 4, 6}
    assert made.statistics().idle_blocks == 6


def test_memory_for_less_than_a_window_is_refused() -> None:
    answer = scheduler(blocks=5).submit(submit("long", 200))
    assert isinstance(answer, Refused)
    assert "may need 6 KV blocks, there are 5" in answer.message


def test_without_a_window_the_same_request_needs_all_its_blocks() -> None:
    assert isinstance(scheduler(blocks=6, window=None).submit(submit("long", 200)), Refused)


def test_a_prefix_whose_beginning_is_gone_is_found_by_its_end() -> None:
    made = scheduler(blocks=6)
    made.submit(submit("first", 40))
    while step(made) is not None:
        pass
    made.submit(submit("again", 45))
    plan = step(made)
    assert plan is not None
    (arrival,) = plan.arrivals
    assert arrival.computed == 40
    assert len(arrival.blocks) == 10
    assert len(set(arrival.blocks)) == 3, "the window, and its first block for all that are left behind"


def test_a_beginning_counts_if_all_is_known_that_comes_after_it_sees() -> None:
    tokens, cache, keys = list(range(40)), PrefixCache(Tables(SIZE, 0, 1, WINDOW)), [PrefixCache.root("t")]
    for index in (0, 4, 5, 6):
        cache.enter(keys, tokens, index, [index])
    # after block 6 positions see from 28 - 10 + 1 = 19 on, in block 4
    assert cache.match([PrefixCache.root("t")], tokens) == [LEFT, LEFT, LEFT, LEFT, 4, 5, 6]
    cache.forget(5)
    assert cache.match([PrefixCache.root("t")], tokens) == [0]


def test_what_a_request_holds_at_most_is_bounded_by_the_window() -> None:
    tables = Tables(SIZE, 0, 1, WINDOW, ahead=8)
    assert [tables.wanted(tokens) for tokens in (1, 8, 16, 17, 10_000)] == [1, 2, 4, 5, 6]
