"""What a turn of an agent costs: CPU of our processes with full durability, and of the servers beside them.

The servers are those of `ostinato up` (synced), the processes those of its table: `agents` with a scripted model in
place of an engine, `recorder`, and `host` with the projections; the client that asks is told apart. CPU is counted by
the kernel per process, so neighbours on the machine change little. What the processes use while nothing happens is
measured first, and taken off.

turn_cpu_ms        a turn with an answer of 8 tokens, one conversation at a time
tool_turn_cpu_ms   the same, after a tool was called
token_cpu_ms       each further token of an answer; `paced_` as an engine says them, 2 ms apart: each is a message
together_          16 conversations at once, which share commits
suspended_         1,000 runs that wait for a person: what they add to the CPU of doing nothing, in ms a second

Every answer, the log's events and the record's copy of them are checked. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.agent_process import SHARDS
from benchmarks.log_servers import Urls, fresh_servers
from bus.commands import send_command
from bus.connection import Connection
from bus.live import watching
from bus.log import START, last_commit, read_shard
from bus.store import Store
from bus.streams import ensure_streams
from infra.settings import PLACE_VARIABLE, Place, Settings, encode_place
from schemas import codec
from schemas.commands import Command, RunAgent
from schemas.live import Committed
from schemas.runs import RunFinished

ROOT = Path(__file__).parents[1]
TOGETHER = 16
LONG = 264
"""Tokens of a long answer: 256 more than 8."""
OURS = ("agents", "recorder", "host")
_SETTLED_S = 1.5
"""After which the recorder and the projections have caught up with what was said."""


@dataclass(frozen=True)
class Spent:
    """Milliseconds of CPU since the processes began, by their names."""

    of: dict[str, float]

    @property
    def ours(self) -> float:
        """Of all of ours but the client."""
        return sum(self.of[name] for name in OURS)

    def since(self, before: Spent, idle: Spent, seconds: float) -> Spent:
        """Give what was spent since, without what doing nothing would have taken."""
        return Spent({name: self.of[name] - before.of[name] - seconds * idle.of[name] for name in self.of})

    def each(self, count: float) -> Spent:
        """Give one of so many."""
        return Spent({name: value / count for name, value in self.of.items()})


@dataclass(frozen=True)
class Scene:
    """What runs, and how it is asked."""

    connection: Connection
    store: Store
    processes: dict[str, int]
    """By name, the process whose CPU counts, with all that it has started."""
    said: Counter[str]
    """How many runs ended, and waited, by what they were asked."""

    def spent(self) -> Spent:
        """Read the kernel's clocks."""
        found = {name: sum(map(_cpu_ms, _family(pid))) for name, pid in self.processes.items()}
        return Spent(found | {"client": 1e3 * time.process_time()})

    async def measured(self, work: Awaitable[None], idle: Spent, count: float) -> Spent:
        """Give what one of `count` costs that `work` does, the copying of what it said into Postgres with it."""
        before, began = self.spent(), time.monotonic()
        await work
        await asyncio.sleep(_SETTLED_S)
        return self.spent().since(before, idle, time.monotonic() - began).each(count)

    async def ask(self, run: str, thread: str, text: str, last: str = "run.finished") -> None:
        """Run the agent until an event of type `last`."""
        data = RunAgent("speaker", text, approvals="ask")
        command = Command(id=run, tenant="acme", kind="agent", thread=thread, verb="run", data=data)
        async with watching(self.connection, f"live.acme.run.{run}") as watcher:
            await send_command(self.connection, command)
            while True:
                frame = await watcher.next(60)
                assert frame is not None, f"{run} said nothing for a minute"
                if isinstance(frame, Committed) and frame.type in {"run.failed", last}:
                    break
        event = codec.decode_event(frame.data)
        words = int(text.partition(" ")[2])
        assert frame.type == last, event
        assert not isinstance(event, RunFinished) or event.text == " ".join(["word"] * words), event
        self.said[f"{text.partition(' ')[0]} {last}"] += 1


def _cpu_ms(pid: int) -> float:
    """Read a process's CPU clock: its id is made of the process's, as clock_getcpuclockid(3) does."""
    try:
        return 1e3 * time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0  # it has ended meanwhile


def _family(pid: int) -> list[int]:
    """List a process and its children: a Postgres is many."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except OSError:
        return [pid]
    return [pid, *(one for child in map(int, children) for one in _family(child))]


@asynccontextmanager
async def started(role: str, urls: Urls, profile: str = "") -> AsyncIterator[Process]:
    """Run a process of the table, from when it is ready."""
    argv = [sys.executable, "-m", "benchmarks.agent_process", role, urls.nats, urls.postgres, "--profile", profile]
    process = await asyncio.create_subprocess_exec(*argv, stdin=PIPE, stdout=PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n", f"{role} did not start"
        yield process
    finally:
        await process.communicate(b"")  # its input ends


@asynccontextmanager
async def recording(urls: Urls) -> AsyncIterator[Process]:
    """Run the stack's own recorder."""
    place = Place("recorder", "recorder-0", urls.nats, urls.postgres, Settings())
    environment = {**os.environ, PLACE_VARIABLE: encode_place(place), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "infra.process", "recorder-0", str(os.getpid())]
    process = await asyncio.create_subprocess_exec(*argv, env=environment, cwd=ROOT, stderr=DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        await process.wait()


async def told(process: Process, line: str) -> None:
    """Say a line to a process, and hear that it heard."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{line}\n".encode())
    assert await process.stdout.readline() == b"heard\n"


async def turns(scene: Scene, name: str, count: int, text: str) -> None:
    """Hold turns one after the other, eight in a conversation."""
    for number in range(count):
        await scene.ask(f"{name}-{number}", f"{name}-{number // 8}", text)


async def together(scene: Scene, name: str, count: int, text: str) -> None:
    """Hold them in sixteen conversations at once."""
    each = count // TOGETHER
    await asyncio.gather(*(turns(scene, f"{name}-{number}", each, text) for number in range(TOGETHER)))


async def suspend(scene: Scene, count: int) -> None:
    """Have runs wait for a person."""
    for first in range(0, count, 50):
        asked = (scene.ask(f"p-{n}", f"p-{n}", "pay 8", "approval.requested") for n in range(first, first + 50))
        await asyncio.gather(*asked)


async def idle_of(scene: Scene, seconds: float) -> Spent:
    """Give what doing nothing takes, each second."""
    await asyncio.sleep(_SETTLED_S)
    before, began = scene.spent(), time.monotonic()
    await asyncio.sleep(seconds)
    return scene.spent().since(before, Spent(dict.fromkeys(before.of, 0.0)), 0.0).each(time.monotonic() - began)


async def check(scene: Scene) -> None:
    """See that every run is in the log, whole, and as often in the record."""
    logged = Counter[str]()
    for shard in range(SHARDS):
        last = await last_commit(scene.connection, shard)
        assert last is not None
        async for stored in read_shard(scene.connection, shard, START, last.sequence):
            logged.update(fact.type for fact in stored.envelope.facts)
    ended = sum(count for name, count in scene.said.items() if name.endswith("run.finished"))
    waiting = scene.said["pay approval.requested"]
    assert logged["run.finished"] == ended, (logged, scene.said)
    assert logged["tool.returned"] == scene.said["add run.finished"], (logged, scene.said)
    assert logged["approval.requested"] == waiting, (logged, scene.said)
    rows = await scene.store.rows("SELECT type, count(*) AS count FROM event GROUP BY type")
    recorded = {row["type"]: row["count"] for row in rows}
    assert recorded == {name: count for name, count in logged.items() if name in recorded}, (recorded, logged)
    assert {"run.finished", "tool.returned", "approval.requested"} <= recorded.keys(), recorded


async def measure(scene: Scene, quick: bool, agents: Process) -> dict[str, float]:
    """Run every part."""
    count = 64 if quick else 480
    # a first round checks, and warms what is compiled or read on first use
    await turns(scene, "warm", 8, "say 8")
    await turns(scene, "warm-tool", 8, "add 8")
    idle = await idle_of(scene, 4.0 if quick else 15.0)
    await told(agents, "begin")
    turn = await scene.measured(turns(scene, "turn", count, "say 8"), idle, count)
    tool = await scene.measured(turns(scene, "tool", count, "add 8"), idle, count)
    await told(agents, "end")
    beside = await scene.measured(together(scene, "together", 2 * count, "say 8"), idle, 2 * count)
    some = count // 4
    long = await scene.measured(turns(scene, "long", some, f"say {LONG}"), idle, some)
    few = count // 8
    paced = await scene.measured(turns(scene, "paced", few, f"slowly {LONG}"), idle, few)
    await suspend(scene, 1000)
    waiting = await idle_of(scene, 4.0 if quick else 15.0)
    await check(scene)
    found = {
        "turn_cpu_ms": turn.ours,
        "tool_turn_cpu_ms": tool.ours,
        "token_cpu_ms": (long.ours - turn.ours) / (LONG - 8),
        "paced_token_cpu_ms": (paced.ours - turn.ours) / (LONG - 8),
        "together_turn_cpu_ms": beside.ours,
        "suspended_cpu_ms_s": waiting.ours - idle.ours,
        "idle_cpu_ms_s": idle.ours,
    }
    parts = {f"turn_{name}_cpu_ms": value for name, value in turn.of.items()}
    parts |= {f"tool_turn_{name}_cpu_ms": value for name, value in tool.of.items()}
    servers = {f"token_{name}_cpu_ms": (long.of[name] - turn.of[name]) / (LONG - 8) for name in turn.of}
    return found | parts | servers


async def run(urls: Urls, quick: bool, profile: str) -> dict[str, float]:
    """Start the processes, and measure."""
    async with (
        await Connection.open(urls.nats, "benchmark") as connection,
        await Store.open(urls.postgres) as store,
    ):
        await ensure_streams(connection, SHARDS)
        async with (
            started("agents", urls, profile) as agents,
            started("host", urls) as host,
            recording(urls) as recorder,
        ):
            pids = {"agents": agents.pid, "recorder": recorder.pid, "host": host.pid}
            return await measure(Scene(connection, store, pids | urls.pids, Counter()), quick, agents)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns: under 50 s")
    parser.add_argument("--profile", default="", help="a file for what cProfile sees of `agents` in one turn at a time")
    chosen = parser.parse_args()
    with fresh_servers(SHARDS) as urls:
        found = uvloop.run(run(urls, chosen.quick, chosen.profile))
    for name, value in found.items():
        print(f"{name:<28} {value:>10.3f}")  # noqa: T201
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))  # noqa: T201


if __name__ == "__main__":
    main()
