"""A step brings no more logarithms than a message holds, and everybody gets theirs in the end."""

from __future__ import annotations

from engine.config import MOST_NUMBERS, SchedulerConfig
from engine.core.numbers import candidates, numbers
from engine.core.scheduler import Scheduler
from schemas.generation import Accepted, Refused, Sampling, Submit
from schemas.steps import StepPlan, StepResult

IDS = tuple(range(1024))


def test_lists_of_candidates_count_as_wide_as_the_widest() -> None:
    lists = Sampling(prompt_logprobs=1, logprob_token_ids=(1, 2, 3), prompt_logprob_token_ids=((5,), (6, 7), ()))
    assert numbers(lists, 4, 10) == 10 * (1 + 1 + 2)
    assert [candidates(lists, position) for position in range(5)] == [(), (5,), (6, 7), (), ()]
    everywhere = Sampling(prompt_logprobs=1, prompt_logprob_start=9, prompt_logprob_token_ids=(5, 6))
    assert numbers(everywhere, 4, 10) == 10 * (1 + 1 + 2)
    assert candidates(everywhere, 10) == candidates(everywhere, 99) == (5, 6)


def submit(name: str, tokens: int, sampling: Sampling) -> Submit:
    return Submit(request=name, prompt=tuple(range(tokens)), sampling=sampling, frontend="f", tenant="t")


def brought(plan: StepPlan, asked: dict[str, Submit]) -> int:
    """Logarithms that a result of the plan brings at most."""
    return sum(numbers(asked[part.request].sampling, 1, part.count) for part in plan.slices)


def test_a_step_has_room_for_the_logarithms_of_its_result() -> None:
    scheduler = Scheduler(SchedulerConfig(blocks=1000, context_length=1000), "epoch")
    much = Sampling(max_tokens=1, prompt_logprobs=20, logprob_token_ids=IDS)
    some = Sampling(max_tokens=5, logprobs=20, logprob_token_ids=IDS)
    asked = {f"much{at}": submit(f"much{at}", 188, much) for at in range(4)}
    asked |= {f"some{at}": submit(f"some{at}", 3, some) for at in range(300)}
    asked |= {f"plain{at}": submit(f"plain{at}", 3, Sampling(max_tokens=5)) for at in range(3)}
    for one in asked.values():
        assert isinstance(scheduler.submit(one), Accepted)
    over = set()
    while (plan := scheduler.plan(0)) is not None:
        assert brought(plan, asked) <= MOST_NUMBERS
        sampled = tuple((part.request, 7) for part in plan.slices if part.sample)
        over |= {event.request for event in scheduler.apply(StepResult(plan.n, "epoch", "w", sampled)) if event.finish}
        scheduler.check()
    assert over == set(asked)


def test_what_lies_before_the_first_that_is_told_of_takes_no_room() -> None:
    limits = SchedulerConfig(blocks=1000, context_length=1000, most_numbers=500)
    late = Sampling(max_tokens=1, prompt_logprobs=4, prompt_logprob_start=900)
    assert isinstance(Scheduler(limits, "epoch").submit(submit("late", 990, late)), Accepted)
    early = Sampling(max_tokens=1, prompt_logprobs=4, prompt_logprob_start=800)
    refused = Scheduler(limits, "epoch").submit(submit("early", 990, early))
    assert isinstance(refused, Refused)
    assert "950 numbers, of at most 500" in refused.message
