"""What a scheduler counts of its requests."""

from __future__ import annotations

from actors.serving.metering import Meter, one_two_five
from actors.tally import Tally
from engine.config import SchedulerConfig
from engine.core.scheduler import Scheduler
from schemas.generation import Sampling, Submit
from schemas.steps import Resync, Served, StepResult

SECOND = 1_000_000


def submit(name: str, tokens: int = 4, prompt: int = 20) -> Submit:
    return Submit(name, tuple(range(1, prompt + 1)), Sampling(max_tokens=tokens), "f", "acme", traceparent="00-a-b-01")


def served_by(meter: Meter, scheduler: Scheduler, now: int, step_us: int) -> list[Served]:
    """Run to the end, a step every `step_us`."""
    over: list[Served] = []
    while (plan := scheduler.plan(now)) is not None:
        meter.planned(plan)
        now += step_us
        tokens = tuple((part.request, 7) for part in plan.slices if part.sample)
        over += meter.applied(plan.n, scheduler.apply(StepResult(plan.n, plan.epoch, "w", tokens)), now)
    return over


def started() -> tuple[Meter, Scheduler]:
    scheduler = Scheduler(SchedulerConfig(blocks=64, context_length=256, block_size=4, max_in_flight=1), "e1")
    scheduler.resync(Resync("w", 0, "started", 64))
    return Meter("e1", 256), scheduler


def test_a_request_is_timed_from_submission_to_its_last_token() -> None:
    meter, scheduler = started()
    scheduler.submit(submit("a"))
    meter.submitted(submit("a"), 10 * SECOND)
    (over,) = served_by(meter, scheduler, 11 * SECOND, SECOND // 2)
    assert (over.submitted, over.began, over.first) == (10 * SECOND, 11 * SECOND, 11 * SECOND + SECOND // 2)
    assert (over.ended, over.finish, over.output_tokens, over.prompt_tokens) == (13 * SECOND, "length", 4, 20)
    assert over.steps == ((1, over.n),)
    assert over.traceparent == "00-a-b-01"
    numbers = meter.numbers()
    sums = {name: tally["sum"] for name, tally in numbers["histograms"].items()}
    assert sums["time_to_first_token_seconds"] == 1.5
    assert sums["inter_token_latency_seconds"] == 1.5
    assert sum(numbers["histograms"]["inter_token_latency_seconds"]["counts"]) == 3
    assert sums["request_queue_time_seconds"] == 1.0
    assert sums["request_prefill_time_seconds"] == 0.5
    assert sums["request_decode_time_seconds"] == 1.5
    assert sums["e2e_request_latency_seconds"] == 3.0
    assert numbers["generated"] == 4
    assert numbers["finished"]["length"] == 1


def test_a_request_that_is_aborted_before_it_begins_is_over_without_a_step() -> None:
    meter, scheduler = started()
    scheduler.submit(submit("a"))
    meter.submitted(submit("a"), 1)
    ended = scheduler.abort("a")
    assert ended is not None
    (over,) = meter.applied(0, [ended], 5)
    assert (over.n, over.began, over.first, over.finish, over.steps) == (0, 0, 0, "abort", ())
    assert sum(meter.numbers()["histograms"]["request_prefill_time_seconds"]["counts"]) == 0


def test_prompt_tokens_of_the_cache_are_not_counted_as_computed() -> None:
    meter, scheduler = started()
    for name in ("a", "b"):
        scheduler.submit(submit(name))
        meter.submitted(submit(name), 0)
        over = served_by(meter, scheduler, 1, 1)
    assert over[0].cached == 16
    assert meter.numbers()["histograms"]["request_prefill_kv_computed_tokens"]["sum"] == 20 + 4


def test_a_value_at_a_bound_counts_below_it() -> None:
    tally = Tally((1, 2, 5))
    for value in (1, 2, 3, 9):
        tally.add(value)
    assert tally.numbers() == {"bounds": [1, 2, 5], "counts": [1, 1, 1, 1], "sum": 15}


def test_bounds_go_by_one_two_five() -> None:
    assert one_two_five(256) == [1, 2, 5, 10, 20, 50, 100, 200]
