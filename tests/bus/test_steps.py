"""What the trace kept of a model call, and what of it is missing."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bus import subjects
from bus.recorder import Recorder
from bus.steps import Frames, Hole, frames_of_call, holes_of_request, recorded_requests, requests_for_call, worker_of
from bus.store import Store
from infra.cli.gaps import gap_lines
from schemas import codec
from schemas.live import Delta, Shed
from schemas.steps import WorkerBegan
from tests.conftest import History

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(10)]

SHED = Shed("p1", 12, 40, 7)


def delta(offset: int, text: str, effect: str = "r1-1-m") -> Delta:
    return Delta("r1", "t1", effect, 2, offset, text)


async def recorded(history: History, store: Store) -> dict[str, int]:
    """Record everything; return what the copy of the trace says."""
    recorder = Recorder(history.connection, store, "rec1")
    task = asyncio.create_task(recorder.run())
    await recorder.drain()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return recorder.statistics()["TRACE"]


async def test_steps_that_the_trace_has_lost_are_counted_and_named(
    history: History, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    for n in (1, 2, 5, 6, 8):
        await history.step(n, ["acme/t1/r1-1-m"] if n > 1 else ["another"])
    await history.step(1, ["acme/t1/r1-1-m"], epoch="epoch2")
    with caplog.at_level(logging.WARNING):
        assert (await recorded(history, store))["missing"] == 3
    assert "plans 3 to 4 of epoch1 are missing" in caplog.text
    holes = await holes_of_request(store, "acme/t1/r1-1-m")
    assert holes == [Hole("epoch1", 3, 4), Hole("epoch1", 7, 7)]
    told = [line.text() for line in gap_lines("", holes, Frames((), ()))]
    assert [line.strip() for line in told] == [
        "gap: steps 3 to 4 are not in the trace (scheduler epoch1)",
        "gap: step 7 is not in the trace (scheduler epoch1)",
    ]


async def test_what_a_worker_computes_with_is_found_by_its_name(history: History, store: Store) -> None:
    first = WorkerBegan("worker1", "k1", {"ops": "native"}, "00ff", {"model": "/model", "threads": 2, "blocks": None})
    for began in (first, replace(first, worker="worker2", profile="k2"), first, replace(first, profile="k3")):
        await history.publish(subjects.worker("Big Model"), codec.encode(began))
    await history.publish(subjects.worker("Big Model"), b"not one")
    await recorded(history, store)
    engine = subjects.encoded("Big Model")
    assert await worker_of(store, engine, "worker1") == replace(first, profile="k3"), "the last word"
    assert (await worker_of(store, engine, "worker2") or first).profile == "k2"
    assert await worker_of(store, engine, "worker3") is None
    assert await worker_of(store, "another", "worker1") is None


async def test_the_requests_of_a_call_are_told_from_those_of_others(history: History, store: Store) -> None:
    call = "acme/t1/r1-1-m"
    own = [call, f"{call}~1", f"{call}~10", f"{call}~2", f"{call}.0.0", f"{call}.0.1", f"{call}.10.0", f"{call}.pii"]
    others = ["acme/t1/r1-1-m2", "acme/t1/r1-1", "acme/t1/r1-1-mx~1", f"{call}~x"]
    for n, request in enumerate((*own, *others), start=1):
        await history.step(n, [request])
    await recorded(history, store)
    found = await requests_for_call(store, call)
    endings = (".pii", "~1", "~2", "~10", ".0.0", ".0.1", ".10.0")
    assert found == [call, *(f"{call}{ending}" for ending in endings)]
    assert sorted(await recorded_requests(store)) == sorted((*own, *others))
    assert len(await recorded_requests(store, 3)) == 3


async def test_text_that_the_trace_has_lost_is_counted_and_who_left_it_out_is_named(
    history: History, store: Store
) -> None:
    subject = subjects.frames("acme", "run", "r1")
    for frame in (delta(0, "hello"), delta(8, "world"), SHED, delta(0, "other", "r1-2-m")):
        await history.publish(subject, codec.encode(frame))
    await history.publish(subject, b"not a frame")
    assert (await recorded(history, store))["missing"] == 0
    frames = await frames_of_call(store, "acme", "run", "r1", "r1-1-m")
    assert frames == Frames((delta(0, "hello"), delta(8, "world")), (SHED,))
    (line,) = gap_lines("hello, world!", [], frames)
    assert line.count == 3
    assert line.text().strip() == (
        "gap: 3 of 13 characters are in no frame of the trace; p1 left out 7 of its deltas 12 to 40: the bus was slow"
    )
    assert gap_lines("hello", [], frames) == []


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=8), st.integers(0, 30))
def test_the_missing_characters_are_those_in_no_frame(spans: list[tuple[int, int]], length: int) -> None:
    deltas = tuple(delta(offset, "x" * size) for offset, size in sorted(spans))
    held = {at for offset, size in spans for at in range(offset, offset + size)}
    assert Frames(deltas, ()).missing(length) == len(set(range(length)) - held)
