"""Steps of a scheduler without the tokens of one thread: the others' are as they were."""

from __future__ import annotations

import msgspec
import pytest

from bus.connection import Connection
from bus.erasure import scrub_traces
from bus.ingest import Ingest
from bus.scrubbing import sampled_by, scrubbed_more, scrubbed_plan, scrubbed_result
from bus.store import Store
from bus.streams import TRACE, ensure_streams
from bus.subjects import frames
from schemas import codec
from schemas.generation import Sampling, Submit, TokenLogprobs
from schemas.live import Delta
from schemas.steps import Applied, Arrival, Slice, StepPlan, StepResult, Submitted, ToldMore
from tests.bus.recording import record

GONE, STAYS = "acme/t1/r1-1-m", "acme/t2/r2-1-m"


ROW = "SELECT payload FROM record WHERE subject = 'step.m.result'"


def plan(n: int, told: tuple[object, ...] = ()) -> StepPlan:
    arrivals = tuple(Arrival(name, (7, 8), 2, Sampling(bad_words=((7,),)), (1,), 0) for name in (STAYS, GONE))
    return StepPlan(n, "e1", 5, False, arrivals, (Slice(STAYS, 0, 2), Slice(GONE, 0, 2)), (), told=told)  # type: ignore[arg-type]


def result(n: int) -> StepResult:
    told = TokenLogprobs((9,), (-0.1,), 1)
    return StepResult(n, "e1", "w1", ((STAYS, 9), (GONE, 11)), logprobs=((STAYS, told), (GONE, told)))


def wanted(request: str) -> bool:
    return request.startswith("acme/t1/")


def test_a_plan_keeps_its_shape_and_loses_one_threads_tokens() -> None:
    submit = Submitted(Submit(GONE, (7, 8), Sampling(), "f1", "acme", output=(11,)))
    first = plan(1)
    second = scrubbed_plan(plan(2, (submit, Applied(1, (9, 11)))), wanted, {1: sampled_by(first)})
    other, mine = second.arrivals
    assert (other.tokens, mine.tokens, mine.sampling.bad_words) == ((7, 8), (0, 0), ())
    assert (other.erased, mine.erased) == (False, True)
    assert second.slices == first.slices
    scrubbed, applied = second.told
    assert isinstance(scrubbed, Submitted)
    assert isinstance(applied, Applied)
    assert (scrubbed.submit.prompt, scrubbed.submit.output, scrubbed.erased) == ((0, 0), (0,), True)
    assert applied.tokens == (9, 0)
    more = scrubbed_more(ToldMore("e1", 2, (Applied(1, (None, 11)),)), wanted, {1: sampled_by(first)})
    assert more.told == (Applied(1, (None, 0)),)


def test_a_result_keeps_what_others_got() -> None:
    left = scrubbed_result(result(1), wanted)
    assert left.tokens == ((STAYS, 9), (GONE, 0))
    assert [request for request, _ in left.logprobs] == [STAYS]
    assert scrubbed_result(left, lambda _: False) is not None


@pytest.mark.anyio
@pytest.mark.servers
async def test_what_the_trace_kept_of_a_thread_is_scrubbed_in_both_copies(
    store: Store, connection: Connection, nats_url: str
) -> None:
    await ensure_streams(connection, shards=1)
    ingest = await Ingest.open(connection)
    text = Delta("r1", "t1", "r1-1-m", 4, 0, "a secret")
    kept = [
        ("step.m.plan", codec.encode(plan(1))),
        ("step.m.result", codec.encode(result(1))),
        ("step.m.plan", codec.encode(plan(2, (Applied(1, (9, 11)),)))),
        (frames("acme", "run", "r1"), codec.encode(text)),
        (frames("acme", "run", "r2"), codec.encode(Delta("r2", "t2", "r2-1-m", 4, 0, "no secret"))),
    ]
    for subject, data in kept:
        await ingest.send(subject, data)
    await ingest.end()
    await record(connection, store, (TRACE,))
    await store.rows(
        "INSERT INTO event VALUES (1, 1, 0, 'acme', 't1', 'run', 'r1', 1, 'run.started', '', 0, '', NULL, '', NULL)"
    )
    assert await scrub_traces(connection, store, "acme", "t1") == 4
    rows = await store.rows("SELECT subject, payload FROM record ORDER BY seq")
    assert [row["subject"] for row in rows] == [subject for subject, _ in kept]
    assert codec.decode(rows[3]["payload"], Delta) == msgspec.structs.replace(text, text="")
    assert bytes(rows[4]["payload"]) == kept[4][1]
    assert codec.decode(rows[0]["payload"], StepPlan).arrivals[1].tokens == (0, 0)
    assert codec.decode(rows[1]["payload"], StepResult).tokens == ((STAYS, 9), (GONE, 0))
    assert codec.decode(rows[2]["payload"], StepPlan).told == (Applied(1, (9, 0)),)
    assert (await connection.api(f"STREAM.INFO.{TRACE}"))["state"]["messages"] == 1
    assert await scrub_traces(connection, store, "acme", "t1") == 0
    # steps that two threads shared are there no more when the second one goes
    assert await scrub_traces(connection, store, "acme", "t2") == 3
    assert codec.decode((await store.rows(ROW))[0]["payload"], StepResult).tokens == ((STAYS, 0), (GONE, 0))
