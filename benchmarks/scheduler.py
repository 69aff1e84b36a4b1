"""What the scheduler costs on the host: plan and apply per step, decoding, at 1 to 256 running requests, unencoded.

Every step's plan is checked against what a worker would have to know before anything is timed. The garbage collector
stays on: it is part of the cost. A straight line through the medians gives what a step costs however many run
(`us_fixed`, at most 30) and what each of them adds (`us_per_request_step_N`, at most 2: the median at N less the fixed
part, by N). Then a model the size of SmolLM2-135M reads prompts that have nothing in common, and the time that its
scheduler spends on looking them up and entering them is set against all of it (`prefix_cache_cost_share`, below 0.01).

Run alone on an idle core.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from engine.config import SchedulerConfig
from engine.core.scheduler import Scheduler
from schemas.generation import Accepted, Sampling, Submit
from schemas.steps import StepPlan, StepResult

RUNNING = (1, 8, 64, 256)
PROMPT = 40
DEPTH = 2


def loaded(running: int, max_tokens: int) -> Scheduler:
    """Return a scheduler with so many requests waiting."""
    config = SchedulerConfig(blocks=60_000, context_length=8192, max_step_tokens=running * PROMPT, max_in_flight=DEPTH)
    scheduler = Scheduler(config, "epoch")
    for number in range(running):
        prompt = tuple(range(number, number + PROMPT))
        sampling = Sampling(max_tokens=max_tokens, stop_tokens=(1, 2))
        answer = scheduler.submit(Submit(f"request-{number}", prompt, sampling, "frontend", "tenant"))
        assert isinstance(answer, Accepted), answer
    return scheduler


def answered(plan: StepPlan) -> StepResult:
    """Sample a token for every slice that asks for one."""
    tokens = tuple((part.request, 1000 + plan.n) for part in plan.slices if part.sample)
    return StepResult(plan.n, plan.epoch, "worker", tokens)


def verify(running: int, steps: int) -> None:
    """Run a whole generation, checking the books after every call and every slice against the one before it."""
    scheduler = loaded(running, steps)
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


def measure(running: int, steps: int) -> list[tuple[float, float]]:
    """Return seconds of `plan` and of `apply` for every step in which all requests decode."""
    scheduler = loaded(running, steps + DEPTH)
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
        if len(events) == running == len(plan.slices) and not plan.arrivals:
            times.append((planned, applied))
    scheduler.check()
    return times


def fitted(costs: Mapping[int, float]) -> tuple[float, float]:
    """Return the fixed part and the part per request of a line through costs; each point counts by its ratio to it."""
    weights = {running: cost**-2 for running, cost in costs.items()}
    total = sum(weights.values())
    middle = sum(weights[running] * running for running in costs) / total
    height = sum(weights[running] * cost for running, cost in costs.items()) / total
    spread = sum(weights[running] * (running - middle) ** 2 for running in costs)
    slope = sum(weights[running] * (running - middle) * (cost - height) for running, cost in costs.items()) / spread
    return height - slope * middle, slope


def step_costs(rounds: int, steps: int) -> dict[str, float]:
    """Measure all numbers of requests, a round of each in turn."""
    times: dict[int, list[tuple[float, float]]] = {running: [] for running in RUNNING}
    for _ in range(rounds):
        for running in RUNNING:
            times[running] += measure(running, steps)
    costs = {running: 1e6 * statistics.median(a + b for a, b in pairs) for running, pairs in times.items()}
    fixed, slope = fitted(costs)
    largest = times[RUNNING[-1]]
    return {
        **{f"us_per_request_step_{running}": round((cost - fixed) / running, 3) for running, cost in costs.items()},
        **{f"us_step_{running}": round(cost, 1) for running, cost in costs.items()},
        "us_fixed": round(fixed, 1),
        "us_per_request_fitted": round(slope, 3),
        "plan_us_per_request": round(1e6 * statistics.median(a for a, _ in largest) / RUNNING[-1], 3),
        "apply_us_per_request": round(1e6 * statistics.median(b for _, b in largest) / RUNNING[-1], 3),
    }


def main() -> None:
    """Print medians over all rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--no-model", action="store_true", help="leave the prefix cache's share out")
    chosen = parser.parse_args()
    for running in RUNNING:
        verify(running, 20 if chosen.quick else 100)
    figures = step_costs(*((3, 500) if chosen.quick else (10, 2000)))
    if not chosen.no_model:
        # torch would be so much more for the collector to look through: it has a process of its own
        argv = [sys.executable, "-m", "benchmarks.scheduler_prefixes", *(["--quick"] if chosen.quick else [])]
        found = subprocess.run(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1], check=True)
        figures |= json.loads(found.stdout)
    print(json.dumps(figures))  # noqa: T201


if __name__ == "__main__":
    main()
