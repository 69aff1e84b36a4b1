"""What the scheduler costs on the host: plan and apply per running request per step, decoding, without encoding.

Every step's plan is checked against what a worker would have to know before anything is timed. The garbage collector
stays on: it is part of the cost. Run alone on an idle core; the budget is 2 microseconds at 256 running.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections import deque
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from engine.config import SchedulerConfig
from engine.core.scheduler import Scheduler
from schemas.generation import Accepted, Sampling, Submit
from schemas.steps import StepPlan, StepResult

RUNNING = 256
PROMPT = 40
DEPTH = 2


def loaded(max_tokens: int) -> Scheduler:
    """Return a scheduler with 256 requests waiting."""
    config = SchedulerConfig(blocks=60_000, context_length=8192, max_step_tokens=RUNNING * PROMPT, max_in_flight=DEPTH)
    scheduler = Scheduler(config, "epoch")
    for number in range(RUNNING):
        prompt = tuple(range(number, number + PROMPT))
        sampling = Sampling(max_tokens=max_tokens, stop_tokens=(1, 2))
        answer = scheduler.submit(Submit(f"request-{number}", prompt, sampling, "frontend", "tenant"))
        assert isinstance(answer, Accepted), answer
    return scheduler


def answered(plan: StepPlan) -> StepResult:
    """Sample a token for every slice that asks for one."""
    tokens = tuple((part.request, 1000 + plan.n) for part in plan.slices if part.sample)
    return StepResult(plan.n, plan.epoch, "worker", tokens)


def verify(steps: int) -> None:
    """Run a whole generation, checking the books after every call and every slice against the one before it."""
    scheduler = loaded(steps)
    computed: dict[str, int] = {}
    outputs: dict[str, int] = {}
    plans: deque[StepPlan] = deque()
    while True:
        while (plan := scheduler.plan(0)) is not None:
            scheduler.check()
            for part in plan.slices:
                assert part.start == computed.get(part.request, 0), part
                computed[part.request] = part.start + part.count
            plans.append(plan)
        if not plans:
            break
        for event in scheduler.apply(answered(plans.popleft())):
            assert event.start == outputs.get(event.request, 0), event
            outputs[event.request] = event.start + len(event.tokens)
        scheduler.check()
    assert set(outputs.values()) == {steps}, outputs
    assert set(computed.values()) == {PROMPT + steps - 1}, computed


def measure(steps: int) -> list[tuple[float, float]]:
    """Return seconds of `plan` and of `apply` for every step in which all requests decode."""
    scheduler = loaded(steps + DEPTH)
    results: deque[StepResult] = deque()
    times = []
    gc.collect()
    for now in range(steps):
        began = time.perf_counter()
        plan = scheduler.plan(now)
        planned = time.perf_counter() - began
        assert plan is not None
        results.append(answered(plan))
        if len(results) < DEPTH:
            continue
        result = results.popleft()
        began = time.perf_counter()
        events = scheduler.apply(result)
        applied = time.perf_counter() - began
        if len(events) == RUNNING == len(plan.slices) and not plan.arrivals:
            times.append((planned, applied))
    scheduler.check()
    return times


def main() -> None:
    """Print medians over all rounds, as microseconds per running request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    quick = parser.parse_args().quick
    verify(20 if quick else 100)
    times = [pair for _ in range(3 if quick else 10) for pair in measure(500 if quick else 2000)]
    scale = 1e6 / RUNNING
    print(  # noqa: T201
        json.dumps(
            {
                "plan_apply_us_per_request": round(scale * statistics.median(a + b for a, b in times), 3),
                "plan_us": round(scale * statistics.median(a for a, _ in times), 3),
                "apply_us": round(scale * statistics.median(b for _, b in times), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
