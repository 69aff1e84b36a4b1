"""What the trace kept, as the recorder copied it: what schedulers planned, and the frames of a model call's text."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

from bus import subjects
from bus.store import Store
from bus.streams import TRACE
from schemas import codec
from schemas.live import Delta, Shed, Traced
from schemas.steps import StepPlan, WorkerBegan


class StoredStep(NamedTuple):
    """One scheduler step as recorded."""

    engine: str
    """As the subject names it."""
    epoch: str
    n: int
    plan: bytes
    results: tuple[bytes, ...]


class Hole(NamedTuple):
    """Steps of a scheduler's run that are not recorded."""

    epoch: str
    first: int
    last: int


class StoredPlan(NamedTuple):
    """What a scheduler published, as recorded: a plan, what it was told while it could make none, or a stall."""

    engine: str
    """As the subject names it."""
    epoch: str
    n: int
    """Of the plan; or of the last one before."""
    time: int
    """When it was stored, microseconds since the Unix epoch."""
    payload: bytes
    kind: str
    """`plan` (a `StepPlan`), `told` (a `ToldMore`) or `stall` (a `Stalled`)."""


class Frames(NamedTuple):
    """What is recorded of a model call's text."""

    deltas: tuple[Delta, ...]
    shed: tuple[Shed, ...]
    """What the entity's producers say they left out, of this call or another."""

    def missing(self, length: int) -> int:
        """Count the characters of a text of that length that no frame holds."""
        found, reached = 0, 0
        for delta in self.deltas:
            end = min(delta.offset + len(delta.text), length)
            found += max(0, end - max(delta.offset, reached))
            reached = max(reached, end)
        return length - found


async def frames_of_call(store: Store, tenant: str, kind: str, entity: str, effect: str) -> Frames:
    """Return the recorded frames of a call, by offset.

    Args:
        store: the record.
        tenant: of the entity.
        kind: `run` or `generation`.
        entity: which one.
        effect: of the call.
    """
    rows = await store.rows(
        "SELECT payload FROM record WHERE subject = $1 AND n IS NOT NULL ORDER BY n",
        subjects.frames(tenant, kind, entity),
    )
    frames: list[Traced] = [codec.decode(row["payload"], Traced) for row in rows]
    deltas = [frame for frame in frames if isinstance(frame, Delta) and frame.effect == effect]
    if (keys := store.keys) is not None:
        await keys.load({delta.key for delta in deltas if delta.key}, surely=True)
        deltas = [keys.opened_delta(tenant, delta) for delta in deltas]
    return Frames(
        tuple(deltas),
        tuple(frame for frame in frames if isinstance(frame, Shed)),
    )


async def holes_of_request(store: Store, request: str) -> list[Hole]:
    """Return the steps that are missing between the first and the last recorded one that served the request."""
    return [Hole(*row) for row in await store.rows(_HOLES, request)]


async def steps_between(store: Store, engine: str, epoch: str, first: int, last: int) -> list[StoredStep]:
    """Return the recorded steps `first` to `last` of a scheduler's run; those that were lost are not there."""
    return [
        StoredStep(row["engine"], row["epoch"], row["n"], row["plan"], tuple(row["results"]))
        for row in await store.rows(_STEPS, engine, epoch, first, last)
    ]


async def last_plans(store: Store, count: int) -> list[StoredPlan]:
    """Return the plans and stalls that were recorded last, of whatever engine, in the order in which they were made."""
    (newest,) = await store.rows("SELECT max(incarnation) AS incarnation FROM cursor WHERE name = $1", TRACE)
    found: list[StoredPlan] = []
    for incarnation in range(newest["incarnation"] or 0, 0, -1):
        found += [_stored(row) for row in await store.rows(_LAST_PLANS, count - len(found), incarnation)]
        if len(found) >= count:
            break
    return found[::-1]


async def schedulers_of_request(store: Store, request: str) -> list[tuple[str, str]]:
    """Return the (engine, epoch) of each scheduler that planned steps for the request."""
    rows = await store.rows("SELECT DISTINCT engine, epoch FROM step_request WHERE request = $1 ORDER BY 1, 2", request)
    return [(row["engine"], row["epoch"]) for row in rows]


async def last_number(store: Store, engine: str, epoch: str) -> int:
    """Return the number of a scheduler's last recorded plan; 0 if there is none."""
    (row,) = await store.rows(
        "SELECT max(n) AS n FROM record WHERE subject = $1 AND producer = $2", f"step.{engine}.plan", epoch
    )
    return int(row["n"] or 0)


async def all_plans(store: Store, engine: str, epoch: str, batch: int = 500) -> AsyncIterator[StoredPlan]:
    """Read all that a scheduler published, in order; each plan once, however often it was recorded."""
    after, before = (-1, 0, 0), b""
    while True:
        rows = await store.rows(_PLANS, _subjects(engine), epoch, *after, batch)
        for row in rows:
            stored = _stored(row)
            again = stored.n == after[0] if stored.kind == "plan" else stored.payload == before
            if not again:
                yield stored
            after, before = (row["n"], row["incarnation"], row["seq"]), stored.payload
        if len(rows) < batch:
            return


def _subjects(engine: str) -> list[str]:
    return [f"step.{engine}.{kind}" for kind in ("plan", "told", "stall")]


def _stored(row: Mapping[str, Any]) -> StoredPlan:
    _, engine, kind = str(row["subject"]).split(".")
    return StoredPlan(engine, row["epoch"], row["n"], row["time"], row["payload"], kind)


async def steps_of_request(store: Store, request: str) -> list[StoredStep]:
    """Return the recorded steps that computed something for the request, in order."""
    return [step for step in await steps_around_request(store, request) if _serves(step, request)]


async def steps_around_request(store: Store, request: str) -> list[StoredStep]:
    """Return all recorded steps from the first that computed something for the request to the last, in order.

    Of each scheduler's run: a step between them may tell of it too, such as that it gave way.
    """
    ranges = await store.rows(_RANGES, request)
    return [step for bounds in ranges for step in await steps_between(store, *bounds)]


async def recorded_requests(store: Store, most: int | None = None) -> list[str]:
    """Return the requests of which there are steps, those with the latest first; `most` of them, or all."""
    rows = await store.rows(_REQUESTS, most)
    return [row["request"] for row in rows]


async def requests_for_call(store: Store, request: str) -> list[str]:
    """Return the requests that a model call made: for several answers, a search, or processors that ask on its behalf.

    Args:
        store: the record.
        request: the call's own, and that of its first answer.
    """
    rows = await store.rows("SELECT DISTINCT request FROM step_request WHERE starts_with(request, $1)", request)
    named = re.compile(rf"{re.escape(request)}(~\d+)?(\..+)?")
    return sorted((row["request"] for row in rows if named.fullmatch(row["request"])), key=_in_turn)


def _in_turn(request: str) -> tuple[int, list[int]]:
    numbers = [int(part) for part in re.findall(r"[~.](\d+)", request)]
    return len(numbers), numbers


async def worker_of(store: Store, engine: str, worker: str) -> WorkerBegan | None:
    """Return what a worker said that it computes with; None if it said nothing, or nothing is kept of that."""
    rows = await store.rows(_WORKER, f"step.{engine}.worker", worker)
    return codec.decode(rows[0]["payload"], WorkerBegan) if rows else None


def _serves(step: StoredStep, request: str) -> bool:
    plan: StepPlan = codec.decode(step.plan, StepPlan)
    return any(part.request == request for part in plan.slices)


_HOLES = """
WITH bounds AS (
    SELECT engine, epoch, min(first) AS first, max(last) AS last FROM step_request
    WHERE request = $1 GROUP BY engine, epoch
), numbered AS (
    SELECT bounds.epoch, record.n, lead(record.n) OVER (PARTITION BY bounds.epoch ORDER BY record.n) AS following
    FROM bounds JOIN record ON record.subject = 'step.' || bounds.engine || '.plan' AND record.producer = bounds.epoch
        AND record.n BETWEEN bounds.first AND bounds.last
)
SELECT epoch, n + 1, following - 1 FROM numbered WHERE following > n + 1 ORDER BY epoch, n
"""

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

_RANGES = """
SELECT engine, epoch, min(first), max(last) FROM step_request WHERE request = $1 GROUP BY engine, epoch
ORDER BY engine, epoch
"""

_REQUESTS = """
SELECT request FROM step_request GROUP BY request ORDER BY max(time) DESC, request LIMIT $1
"""

_WORKER = """
SELECT payload FROM record WHERE subject = $1 AND producer = $2 ORDER BY incarnation DESC, seq DESC LIMIT 1
"""

_LAST_PLANS = """
SELECT subject, producer AS epoch, n, time, payload FROM record
WHERE (subject LIKE 'step.%.plan' OR subject LIKE 'step.%.stall') AND n IS NOT NULL AND incarnation = $2
ORDER BY seq DESC LIMIT $1
"""

_PLANS = """
SELECT subject, producer AS epoch, n, time, payload, incarnation, seq FROM record
WHERE subject = ANY($1) AND producer = $2 AND (n, incarnation, seq) > ($3, $4, $5)
ORDER BY n, incarnation, seq LIMIT $6
"""
