"""A step brings no more logarithms than a message holds, and everybody gets theirs in the end."""

from __future__ import annotations

from engine.config import SchedulerConfig
from engine.core.numbers import MOST_NUMBERS, numbers
from engine.core.scheduler import Scheduler
from schemas.generation import Accepted, Sampling, Submit
from schemas.steps import StepPlan, StepResult

IDS = tuple(range(1024))


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
