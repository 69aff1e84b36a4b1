"""What the bus path costs: a command's round trip, live frames, and moving a shard to another process.

Each part does the same with raw nats-py in the same run. Synced servers as in `ostinato up`; the owners run in this
process. The last line is one JSON object.

command   from publishing a command until its outcome is heard: a durable publish, a pull, a decision, a durable append,
          a live frame; beside two raw durable publishes and a core request, which are its least
live      frames per second through `Live` to one watcher, beside raw core publishes of the same bytes
handover  from a process's giving up its lease until every shard answers again, and after its death without a word
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

import uvloop
from nats.aio.msg import Msg

sys.path.insert(0, str(Path(__file__).parents[1]))

from actors.agent.actor import AgentPerformer
from actors.agent.loop import ConversationMachine
from actors.runtime.context import SystemChance, SystemClock, SystemIds
from actors.runtime.partitions import own_shards
from actors.runtime.shard import Runtime, ShardOwner
from actors.testing import NoRecord
from benchmarks.log_servers import fresh_servers
from bus.commit import Writer
from bus.connection import Connection
from bus.errors import BusError
from bus.lease import Leases
from bus.live import Live, watching
from bus.streams import ensure_streams
from bus.trace import Trace
from infra.cli.asking import agent_command
from infra.follow import send
from schemas import codec
from schemas.live import Delta

SHARDS = 4
THREADS = 12
"""Enough to meet every shard."""


def runtime(connection: Connection, slot: str) -> Runtime:
    """Make one process's worth of owners, with no agents: every question is refused at once."""
    clock, live = SystemClock(), Live(connection)

    return Runtime(
        connection=connection,
        clock=clock,
        ids=SystemIds(),
        chance=SystemChance(),
        writer=Writer(SystemIds().new("p"), "benchmark"),
        slot=slot,
        machines={"agent": ConversationMachine()},
        performers={"agent": AgentPerformer([], {}, "m", live, clock)},
        record=NoRecord(),
    )


class Process:
    """Owners with a lease and a connection of their own."""

    def __init__(self, connection: Connection, slot: str) -> None:
        self._leases = Leases(connection, slot, slot)
        self._owners: dict[int, ShardOwner] = {}
        self.ready = asyncio.Event()
        ownership = self._leases.ownership(SHARDS)
        self._task = asyncio.create_task(own_shards(runtime(connection, slot), ownership, self._told, self._owners))

    async def _told(self, _: frozenset[int]) -> None:
        self.ready.set()

    async def die(self) -> None:
        """End without a word."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def leave(self) -> None:
        """End as a process does that is told to."""
        await asyncio.gather(*(owner.drain(1) for owner in self._owners.values()))
        await self.die()
        await self._leases.release()


@asynccontextmanager
async def process(url: str, slot: str) -> AsyncIterator[Process]:
    """Run a process until it dies or the block ends."""
    async with await Connection.open(url, slot) as connection:
        made = Process(connection, slot)
        await made.ready.wait()
        yield made
        await made.die()


async def served(connection: Connection, names: str) -> float:
    """Ask in every thread until each is answered; return the seconds it took."""
    began = time.perf_counter()

    async def probe(number: int) -> None:
        while True:
            try:
                await send(connection, agent_command("nobody", "?", f"{names}{number}"), 0.5)
            except (BusError, TimeoutError):
                continue
            else:
                return

    await asyncio.gather(*(probe(number) for number in range(THREADS)))
    return time.perf_counter() - began


async def commands(url: str, connection: Connection, count: int) -> dict[str, float]:
    """Time commands one after the other, each beside its raw parts."""
    raw = {"name": "RAW", "subjects": ["raw.*"], "storage": "file", "allow_direct": True}
    await connection.api("STREAM.CREATE.RAW", raw)

    async def echo(message: Msg) -> None:
        await message.respond(message.data)

    async with process(url, "agents-0"):
        await served(connection, "warm")
        await connection.client.subscribe("echo", cb=echo)
        ours, theirs = [], []
        for number in range(count):
            began = time.perf_counter()
            outcome = await send(connection, agent_command("nobody", "?", f"c{number % THREADS}"))
            ours.append(time.perf_counter() - began)
            assert outcome.result == "refused", outcome
            began = time.perf_counter()
            for _ in range(2):
                await connection.request("raw.0", bytes(600))
            await connection.request("echo", bytes(200))
            theirs.append(time.perf_counter() - began)
    return {"command_p50_ms": 1e3 * statistics.median(ours), "raw_parts_p50_ms": 1e3 * statistics.median(theirs)}


async def live_frames(connection: Connection, count: int) -> dict[str, float]:
    """Send deltas to a watcher that hears them all, and to the trace, then the same bytes raw."""
    frame = Delta("run1", "thread1", "run1-1-m", 4, 0, "a few words ")
    data = codec.encode(frame)
    heard = 0
    async with Trace(connection, "p1") as trace, watching(connection, "live.acme.run.run1") as watcher:
        live = Live(connection, trace)
        began = time.perf_counter()
        for start in range(0, count, 1000):
            for _ in range(min(1000, count - start)):
                await live.delta("acme", "run", frame)
            while heard < start + 1000 and heard < count and await watcher.next(5) is not None:
                heard += 1
        took = time.perf_counter() - began
    assert heard == count, f"{heard} of {count} frames were heard"
    raw = 0
    arrived = asyncio.Event()

    async def hear(_: Msg) -> None:
        nonlocal raw
        raw += 1
        if raw == count:
            arrived.set()

    await connection.client.subscribe("raw-live", cb=hear)
    began = time.perf_counter()
    for _ in range(count):
        await connection.client.publish("raw-live", data)
        await connection.client.publish("raw-trace", data)
    await arrived.wait()
    raw_s = time.perf_counter() - began
    shed = trace.statistics()["shed"]
    return {"live_frames_s": count / took, "raw_frames_s": count / raw_s, "shed_of_frames": shed / count}


async def moves(url: str, connection: Connection, rounds: int) -> dict[str, float]:
    """Time how long shards are unserved when a process leaves, and when it dies."""
    left, died = [], []
    async with process(url, "agents-1"):
        for number in range(rounds):
            async with process(url, "agents-0") as leaving:
                await served(connection, f"a{number}-")
                await leaving.leave()
                left.append(await served(connection, f"b{number}-"))
        async with process(url, "agents-0") as dying:
            await served(connection, "d-")
            await dying.die()
            died.append(await served(connection, "e-"))
    return {"handover_p50_ms": 1e3 * statistics.median(left), "failover_s": statistics.median(died)}


async def measure(url: str, quick: bool) -> dict[str, float]:
    """Run every part."""
    async with await Connection.open(url, "benchmark") as connection:
        await ensure_streams(connection, SHARDS)
        found = await commands(url, connection, 200 if quick else 2000)
        found |= await live_frames(connection, 5_000 if quick else 100_000)
        return found | await moves(url, connection, 5 if quick else 25)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of each part: under 50 s")
    chosen = parser.parse_args()
    with fresh_servers(SHARDS) as urls:
        found = uvloop.run(measure(urls.nats, chosen.quick))
    for name, value in found.items():
        print(f"{name:<20} {value:>12,.2f}")  # noqa: T201
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))  # noqa: T201


if __name__ == "__main__":
    main()
