"""Load on a server: requests at their times, no more at once than asked for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from infra.bench.client import Target, measured
from infra.bench.measures import Sample
from infra.bench.workload import Question

Progress = Callable[[int, int], None]
"""Told (done, of how many)."""


async def put_load(
    target: Target,
    questions: Sequence[Question],
    times: Sequence[float],
    most_at_once: int | None,
    on_progress: Progress,
) -> tuple[list[Sample], float]:
    """Send every question at its time; return what was measured of each, in their order, and how long it all took."""
    places: contextlib.AbstractAsyncContextManager[object] = (
        contextlib.nullcontext() if most_at_once is None else asyncio.Semaphore(most_at_once)
    )
    done = 0
    began = time.perf_counter()

    async def ask(question: Question, at: float) -> Sample:
        nonlocal done
        await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
        async with places:
            sample = await measured(target, question)
        done += 1
        on_progress(done, len(questions))
        return sample

    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(ask(*each)) for each in zip(questions, times, strict=True)]
    return [task.result() for task in asking], time.perf_counter() - began
