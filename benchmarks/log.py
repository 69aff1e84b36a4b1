"""What the durable core costs: append, record, fold, read a cold thread, verify; beside raw NATS and raw Postgres.

The servers are those of `ostinato up`, with every sync they do there. Each part is checked before it is timed, and is
compared with the same work done without us in the same run. The last line is one JSON object.

append    `ShardWriter` by closed loops ("actors": append one event, wait, again), beside one raw publish after another
          of the same envelope to a stream of the same kind; many loops beside as many raw ones as there are shards,
          with messages as large as the envelopes were
record    the recorder copying a filled EV, beside asyncpg's COPY of the same rows into tables like ours; for ten
          minutes unless it is to be quick, and what more memory its process takes then than after the first round
seen      how long after its acknowledgement a commit is visible in Postgres, at half the recorder's target
fold      decode and evolve the events of threads with tool calls
cold      a thread of 100 events read from Postgres in a log of many others
takeover  the folding of a shard with a long history by its next owner, all of it and from a checkpoint
verify    `replay verify` of threads, in this process
project   the projections of such threads, made from the log's beginning
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from actors.agent.loop import ConversationMachine
from actors.runtime.context import SystemClock, SystemIds
from actors.runtime.machine import Emitted
from actors.runtime.replay import Recorded, verify
from benchmarks.log_projections import hold, project
from benchmarks.log_recorder import fact, record
from benchmarks.log_servers import fresh_servers
from benchmarks.log_takeover import takeover
from benchmarks.log_threads import DECISIONS, EVENTS, TURNS, told
from bus.commit import ShardWriter, Writer
from bus.connection import Connection
from bus.log import read_shard, read_stream
from bus.recorder import Recorder
from bus.store import Store
from bus.streams import EV, ensure_streams
from schemas import codec

SHARDS = 16
RECORDER_TARGET = 50_000


class Sizes(NamedTuple):
    """How much of each part."""

    append_s: float
    alone: int
    """Appends one after the other."""
    recorded: int
    """Events that the recorder copies."""
    envelope: int
    """Events in each envelope of those."""
    sustained_s: float
    """How long the recorder copies in all: round after round of `recorded` events."""
    seen_s: float
    threads: int
    """Threads of 100 events in the log that the cold one is read from."""


QUICK = Sizes(append_s=1.5, alone=300, recorded=300_000, envelope=64, sustained_s=0, seen_s=2, threads=2_000)
FULL = Sizes(append_s=10, alone=2000, recorded=3_000_000, envelope=64, sustained_s=600, seen_s=10, threads=10_000)


@asynccontextmanager
async def fresh() -> AsyncIterator[tuple[Connection, Store, str]]:
    """Give servers of their own, with empty streams and tables."""
    with fresh_servers(SHARDS) as urls:
        async with (
            await Connection.open(urls.nats, "benchmark") as connection,
            await Store.open(urls.postgres) as store,
        ):
            await ensure_streams(connection, SHARDS)
            raw = {"name": "RAW", "subjects": ["raw.*"], "storage": "file", "discard": "new", "allow_direct": True}
            await connection.api("STREAM.CREATE.RAW", raw)
            yield connection, store, urls.postgres


async def pens(connection: Connection, count: int) -> list[ShardWriter]:
    """Take shards 0 to `count` - 1."""
    writer = Writer(SystemIds().new("p"), "benchmark")
    return [
        await ShardWriter.take(connection, shard, writer, SystemClock(), SystemIds(), "benchmark")
        for shard in range(count)
    ]


async def append_alone(connection: Connection, count: int) -> dict[str, float]:
    """Time appends one after the other, and raw publishes of as many bytes in turn with them."""
    (pen,) = await pens(connection, 1)
    ours, raw = [], []
    envelope = b""
    for n in range(count):
        began = time.perf_counter()
        place = await pen.append([fact(n)])
        ours.append(time.perf_counter() - began)
        if not envelope:
            (item,) = [item async for item in read_stream(connection, place.sequence, place.sequence)]
            envelope = item.data
        began = time.perf_counter()
        await connection.request("raw.0", envelope)
        raw.append(time.perf_counter() - began)
    return {"append_p50_ms": 1e3 * statistics.median(ours), "raw_p50_ms": 1e3 * statistics.median(raw)}


class Together(NamedTuple):
    """How fast actors appended, and raw publishes of as many bytes from as many loops."""

    events_s: float
    envelopes_s: float
    raw_s: float


async def append_together(connection: Connection, actors: int, shards: int, seconds: float) -> Together:
    """Let actors append for a while, read every event back in order, and publish envelopes of that size raw."""
    taken = await pens(connection, shards)
    before = [pen.position for pen in taken]
    end = time.perf_counter() + seconds
    counts = [0] * actors

    async def act(number: int) -> None:
        pen = taken[number % shards]
        while time.perf_counter() < end:
            await pen.append([fact(counts[number], f"actor{number}")])
            counts[number] += 1

    began = time.perf_counter()
    await asyncio.gather(*(act(number) for number in range(actors)))
    took = time.perf_counter() - began
    seen = [0] * actors
    envelopes = size = 0
    for shard, (pen, start) in enumerate(zip(taken, before, strict=True)):
        async for stored in read_shard(connection, shard, start, pen.position.sequence):
            envelopes += 1
            size += len(codec.encode(stored.envelope))
            for found in stored.envelope.facts:
                number = int(found.entity.removeprefix("actor"))
                assert found.version == seen[number], f"{found.entity} is at {seen[number]}, the log says otherwise"
                seen[number] += 1
    assert seen == counts, "the log does not hold what was acknowledged"
    raw = await publish_raw(connection, size // envelopes, shards, seconds / 4)
    return Together(sum(counts) / took, envelopes / took, raw)


async def publish_raw(connection: Connection, size: int, loops: int, seconds: float) -> float:
    """Publish messages of a size from some loops, each waiting for its acknowledgements; return messages per second."""
    message = bytes(size)
    end = time.perf_counter() + seconds
    counts = [0] * loops

    async def publish(number: int) -> None:
        while time.perf_counter() < end:
            await connection.request(f"raw.{number}", message)
            counts[number] += 1

    began = time.perf_counter()
    await asyncio.gather(*map(publish, range(loops)))
    return sum(counts) / (time.perf_counter() - began)


async def seen(connection: Connection, store: Store, seconds: float) -> dict[str, float]:
    """Append at half the recorder's target, and time from acknowledgement until Postgres shows it."""
    recorder = Recorder(connection, store, SystemIds().new("p"), (EV,))
    task = asyncio.create_task(recorder.run())
    await recorder.drain(deadline_s=600)  # what the part before has left
    taken = await pens(connection, 4)
    acknowledged: dict[int, float] = {}
    lags: list[float] = []
    over = asyncio.Event()

    async def look() -> None:
        while not over.is_set() or acknowledged:
            cursor = await store.cursor(EV)
            now = time.perf_counter()
            shown = [s for s in acknowledged if cursor is not None and s <= cursor.sequence]
            lags.extend(now - acknowledged.pop(sequence) for sequence in shown)
            await asyncio.sleep(0.002)

    looking = asyncio.create_task(look())
    burst = 50
    pause = burst / (RECORDER_TARGET / 2)
    began = time.perf_counter()
    count = 0
    while time.perf_counter() - began < seconds:
        place = await taken[count % 4].append([fact(count * burst + i + 1, f"seen{count % 4}") for i in range(burst)])
        acknowledged[place.sequence] = time.perf_counter()
        count += 1
        await asyncio.sleep(max(0.0, began + count * pause - time.perf_counter()))
    rate = count * burst / (time.perf_counter() - began)
    over.set()
    await asyncio.wait_for(looking, 30)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return {"seen_p99_ms": 1e3 * statistics.quantiles(lags, n=100)[98], "seen_at_events_s": rate}


def fold() -> float:
    """Decode and evolve threads; events per second."""
    machine = ConversationMachine()
    facts = [item.fact for item in told("thread1")]

    def once() -> Any:
        state = machine.initial("acme", "thread1")
        for item in facts:
            state = machine.evolve(state, Emitted(item.kind, item.entity, codec.event_of(item)))
        return state

    assert len(once().messages) == 4 * TURNS, "the thread does not hold what was said"
    rounds = 50
    times = []
    for _ in range(7):
        began = time.perf_counter()
        for _ in range(rounds):
            once()
        times.append(time.perf_counter() - began)
    return rounds * len(facts) / statistics.median(times)


async def cold(store: Store, threads: int) -> dict[str, float]:
    """Read one thread of 100 events among many."""
    await hold(store, threads)
    times = []
    for number in range(0, threads, max(1, threads // 50)):
        began = time.perf_counter()
        events = await store.events_of_thread("acme", f"cold{number}")
        machine = ConversationMachine()
        state = machine.initial("acme", f"cold{number}")
        for event in events:
            state = machine.evolve(state, Emitted(event.fact.kind, event.fact.entity, codec.event_of(event.fact)))
        times.append(time.perf_counter() - began)
        assert len(events) == EVENTS, f"{len(events)} events"
    (row,) = await store.rows("SELECT count(*) FROM event")
    return {"cold_thread_ms": 1e3 * statistics.median(times), "log_events": row["count"]}


def verified() -> float:
    """Verify a thread again and again; decisions per second."""
    log = [
        Recorded(
            f"{decision}/{n}", 0, item.kind, item.entity, item.version, item.type, bytes(item.payload), cause, decision
        )
        for n, (decision, cause, item) in enumerate(told("thread1"))
    ]
    machine = ConversationMachine()
    verdict = verify(machine, "acme", "thread1", log)
    assert verdict.decisions == DECISIONS, verdict
    times = []
    for _ in range(7):
        began = time.perf_counter()
        for _ in range(20):
            verify(machine, "acme", "thread1", log)
        times.append(time.perf_counter() - began)
    return 20 * verdict.decisions / statistics.median(times)


async def measure(sizes: Sizes, part: str) -> dict[str, float]:
    """Run a part, on servers of its own if it needs any."""
    match part:
        case "fold":
            return {"fold_events_s": fold()}
        case "verify":
            return {"verify_decisions_s": verified()}
    async with fresh() as (connection, store, url):
        match part:
            case "append":
                found = await append(connection, sizes)
            case "record":
                found = await record(connection, store, url, sizes.recorded, sizes.envelope, sizes.sustained_s)
                found |= await seen(connection, store, sizes.seen_s)
            case "cold":
                found = await cold(store, sizes.threads)
            case "takeover":
                found = await takeover(connection, store, url, sizes.threads)
            case "project":
                found = await project(store, sizes.threads)
    return found


async def append(connection: Connection, sizes: Sizes) -> dict[str, float]:
    """Append alone, and by many at once over few and many shards."""
    found = await append_alone(connection, sizes.alone)
    for actors in (64, 512):
        for shards in (1, 4, 16):
            together = await append_together(connection, actors, shards, sizes.append_s)
            found[f"append_{actors}_events_s_{shards}_shards"] = together.events_s
            found[f"append_{actors}_raw_share_{shards}_shards"] = together.envelopes_s / together.raw_s
            found[f"raw_{actors}_messages_s_{shards}_shards"] = together.raw_s
        found[f"append_{actors}_events_s"] = found[f"append_{actors}_events_s_4_shards"]
    return found


PARTS = ("append", "record", "cold", "takeover", "fold", "verify", "project")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of each part: under 50 s")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    chosen = parser.parse_args()
    found: dict[str, float] = {}
    for part in chosen.parts:
        measured = uvloop.run(measure(QUICK if chosen.quick else FULL, part))
        for name, value in measured.items():
            print(f"{name:<32} {value:>14,.2f}", flush=True)  # noqa: T201
        found |= measured
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))  # noqa: T201


if __name__ == "__main__":
    main()
