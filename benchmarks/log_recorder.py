"""The recorder over filled streams, round after round, beside asyncpg's COPY of the same rows."""

from __future__ import annotations

import asyncio
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from actors.runtime.context import SystemIds
from bus.connection import Connection
from bus.feed import Item
from bus.log import read_stream
from bus.recorder import Recorder
from bus.rows import EventRows
from bus.store import COLUMNS, Cursor, Store
from bus.streams import EV
from schemas import codec
from schemas.envelope import FORMAT, GENESIS, Envelope, Fact

_EVENT_BYTES = 1200
"""Of an event on the disk, at most: in the stream, in Postgres with its indexes, and in Postgres' own log."""
_SPARE_BYTES = 8 << 30


def fact(version: int, entity: str = "run1") -> Fact:
    """Make an event like most: a tool's result."""
    return Fact("acme", "thread1", "run", entity, version, "tool.returned", "c1", _PAYLOAD)


_PAYLOAD = msgspec.Raw(
    b'{"type":"tool.returned","effect":"run1-1-t0","call_id":"call_1","content":"' + b"4" * 60 + b'"}'
)


async def fill(connection: Connection, events: int, envelope: int, heads: dict[int, str], before: int = 0) -> None:
    """Fill EV with whole chains over four shards, as fast as the server takes them.

    Args:
        connection: to NATS.
        events: how many, a multiple of `envelope`.
        envelope: events in each.
        heads: of the shards' chains; they move on.
        before: how many events were filled in before.
    """
    under_way: set[asyncio.Task[Any]] = set()
    for n in range(before // envelope, (before + events) // envelope):
        shard = n % 4
        facts = tuple(fact(n * envelope + i + 1, f"bulk{shard}") for i in range(envelope))
        data = codec.encode(Envelope(FORMAT, shard, 1, "w", f"bulk-{n}", "c", n, heads[shard], facts))
        heads[shard] = codec.digest(data)
        under_way.add(asyncio.create_task(connection.request(f"ev.{shard}", data, 30)))
        if len(under_way) >= 200:
            _, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*under_way)


async def record(
    connection: Connection, store: Store, url: str, events: int, envelope: int, sustained_s: float
) -> dict[str, float]:
    """Time the recorder over a filled stream; then beside who fills it on, for so long; then COPY of as many rows.

    One recorder does all of it: what it keeps shows in the memory of this process.
    """
    heads = dict.fromkeys(range(4), GENESIS)
    events -= events % envelope
    await fill(connection, events, envelope, heads)
    recorder = Recorder(connection, store, SystemIds().new("p"), (EV,))
    began = time.perf_counter()
    task = asyncio.create_task(recorder.run())
    await recorder.drain(deadline_s=600)
    found = {"recorder_events_s": events / (time.perf_counter() - began)}
    count = events
    if sustained_s:
        began, memory = time.perf_counter(), list[float]()
        while (took := time.perf_counter() - began) < sustained_s and _room_for(events):
            await fill(connection, events, envelope, heads, count)
            await recorder.drain(deadline_s=600)
            count += events
            memory.append(_resident_mb())
            await _forget_recorded(connection)
        assert memory, "the disk has no room for a round"
        found["recorder_sustained_s"] = took
        found["recorder_sustained_events_s"] = (count - events) / took
        # the first round has what a process takes once
        found["recorder_grew_mb"] = memory[-1] - memory[0]
    (row,) = await store.rows("SELECT count(*) FROM event WHERE entity LIKE 'bulk%'")
    assert row["count"] == count, f"{row['count']} events are recorded of {count}"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await _forget_recorded(connection)
    before = dict(heads)
    first = (await connection.api(f"STREAM.INFO.{EV}"))["state"]["last_seq"] + 1
    await fill(connection, events, envelope, heads, count)
    return found | {"raw_copy_events_s": await copy_raw(connection, url, first, before, events)}


async def _forget_recorded(connection: Connection) -> None:
    """Make room in the stream; the heads of all shards stay."""
    await connection.api(f"STREAM.PURGE.{EV}", {"keep": 64})


def _room_for(events: int) -> bool:
    """Look whether the disk has room for so many events more, in both copies; say so if it has not."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    fits = free > events * _EVENT_BYTES + _SPARE_BYTES
    if not fits:
        print(f"stopped early: {free >> 30} GiB of the disk are free")  # noqa: T201
    return fits


async def copy_raw(connection: Connection, url: str, first: int, heads: dict[int, str], count: int) -> float:
    """COPY the same rows with asyncpg into tables with the same indexes: no stream, no decoding, no cursor."""
    last = (await connection.api(f"STREAM.INFO.{EV}"))["state"]["last_seq"]
    items = [item async for item in read_stream(connection, first, last)]
    batches = _batches(items, heads)
    client = await asyncpg.connect(url)
    try:
        for table in ("commit", "event"):
            await client.execute(f"CREATE TABLE raw_{table} (LIKE {table} INCLUDING ALL)")
        began = time.perf_counter()
        for batch in batches:
            async with client.transaction():
                for table in ("commit", "event"):
                    await client.copy_records_to_table(f"raw_{table}", records=batch[table], columns=COLUMNS[table])
        took = time.perf_counter() - began
        assert await client.fetchval("SELECT count(*) FROM raw_event WHERE entity LIKE 'bulk%'") == count
        await client.execute("DROP TABLE raw_commit, raw_event")
    finally:
        await client.close()
    return count / took


def _batches(items: Sequence[Item], heads: dict[int, str]) -> list[dict[str, Any]]:
    """Make rows of a log as the recorder does, in batches as large as its own."""
    batches, cursor = [], Cursor(EV, 1, items[0].sequence - 1, "")
    maker = EventRows(EV, {shard: (0, head) for shard, head in heads.items() if head != GENESIS})
    for start in range(0, len(items), 80):
        batch = maker.batch(cursor, items[start : start + 80])
        maker.keep(batch)
        cursor = batch.cursor
        batches.append(dict(batch.tables))
    return batches


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / (1 << 20)
