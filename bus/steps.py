"""Scheduler steps as the recorder copied them, read back."""

from __future__ import annotations

from typing import NamedTuple

from bus.store import Store
from schemas import codec
from schemas.steps import StepPlan


class StoredStep(NamedTuple):
    """One scheduler step as recorded."""

    engine: str
    """As the subject names it."""
    epoch: str
    n: int
    plan: bytes
    results: tuple[bytes, ...]


async def steps_between(store: Store, engine: str, epoch: str, first: int, last: int) -> list[StoredStep]:
    """Return the recorded steps `first` to `last` of a scheduler's run; those that were lost are not there."""
    return [
        StoredStep(row["engine"], row["epoch"], row["n"], row["plan"], tuple(row["results"]))
        for row in await store.rows(_STEPS, engine, epoch, first, last)
    ]


async def steps_of_request(store: Store, request: str) -> list[StoredStep]:
    """Return the recorded steps that computed something for the request, in order."""
    ranges = await store.rows(
        "SELECT engine, epoch, first, last FROM step_request WHERE request = $1 ORDER BY engine, epoch, first",
        request,
    )
    steps = [step for bounds in ranges for step in await steps_between(store, *bounds)]
    return [step for step in steps if _serves(step, request)]


def _serves(step: StoredStep, request: str) -> bool:
    plan: StepPlan = codec.decode(step.plan, StepPlan)
    return any(part.request == request for part in plan.slices)


_STEPS = """
SELECT $1::text AS engine, plan.producer AS epoch, plan.n, plan.payload AS plan, ARRAY(
    SELECT result.payload FROM record AS result
    WHERE result.subject = 'step.' || $1 || '.result' AND result.producer = plan.producer AND result.n = plan.n
    ORDER BY result.seq
) AS results
FROM record AS plan
WHERE plan.subject = 'step.' || $1 || '.plan' AND plan.producer = $2 AND plan.n BETWEEN $3 AND $4
ORDER BY plan.n, plan.seq
"""
