"""Projections of many threads, made from the log's beginning."""

from __future__ import annotations

import time

from benchmarks.log_threads import EVENTS, rows
from bus.projections import PROJECTIONS
from bus.projector import Projector
from bus.rebuild import rebuild
from bus.store import COLUMNS, Batch, Cursor, Store
from bus.streams import EV


async def hold(store: Store, threads: int) -> int:
    """Fill Postgres with threads of 100 events; return the last one's sequence."""
    for first in range(0, threads, 200):
        batch = [line for n in range(first, min(first + 200, threads)) for line in rows(n, sequence=10_000_000 + n)]
        async with store.transaction() as client:
            await client.copy_records_to_table("event", records=batch, columns=COLUMNS["event"])
    return 10_000_000 + threads


async def project(store: Store, threads: int) -> dict[str, float]:
    """Make every projection from the log's beginning; then time a look that finds nothing new."""
    last = await hold(store, threads)
    before = await store.claim(EV, "benchmark")
    await store.advance(before, Batch(Cursor(EV, 1, last, ""), {}, {}), "benchmark")
    began, cpu = time.perf_counter(), time.process_time()
    await rebuild(store, list(PROJECTIONS))
    took, used = time.perf_counter() - began, time.process_time() - cpu
    (row,) = await store.rows("SELECT sum(events)::bigint AS events FROM threads")
    assert row["events"] == threads * EVENTS, f"{row['events']} events are in the projections"
    projector, looks = Projector(store), 200
    cpu = time.process_time()
    for _ in range(looks):
        assert await projector.catch_up()
    idle = (time.process_time() - cpu) / looks
    events = threads * EVENTS
    return {"project_events_s": events / took, "project_cpu_us": 1e6 * used / events, "project_look_cpu_ms": 1e3 * idle}
