"""A durable step beside others': the same loop of a scripted model and a tool in Ostinato, LangGraph and DBOS.

Each run is a conversation that calls a tool so many times: a model's answer, a tool's result, again. Both are logged
before the loop goes on; nothing else happens, so that what is timed is durability. All use the same servers with the
syncs they have by default: ours JetStream (synced) and its recorder's Postgres, the others that Postgres.

The rivals are installed into `benchmarks/.rivals` at the first run (from PyPI, a minute). The last line is one JSON
object: milliseconds per durable step, alone and with 16 runs beside one another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
import venv
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from actors.agent.actor import AgentPerformer
from actors.agent.definition import Agent
from actors.agent.loop import ConversationMachine
from actors.models.provider import ModelCall
from actors.runtime.context import SystemChance, SystemClock, SystemIds
from actors.runtime.shard import Runtime, ShardOwner
from actors.testing import NoRecord, Say, ScriptedModel
from actors.tools import tool
from benchmarks.log_servers import Urls, fresh_servers
from bus.commands import send_command
from bus.commit import Writer
from bus.connection import Connection
from bus.live import Live, watching
from bus.log import START, read_shard
from bus.recorder import Recorder
from bus.store import Store
from bus.streams import EV, ensure_streams
from schemas.commands import Command, RunAgent
from schemas.live import Committed
from schemas.messages import ToolCall

HERE = Path(__file__).parent
FOLDER = HERE / ".rivals"
PACKAGES = ("langgraph>=1.2,<2", "langgraph-checkpoint-postgres>=3.2,<4", "dbos>=3.4,<4", "psycopg[binary]>=3.3,<4")
TOGETHER = 16


@tool(effect="pure")
def add(number: int) -> str:
    """Add one."""
    return str(number + 1)


def scripted(calls: int) -> ScriptedModel:
    """Make a model that calls the tool so many times, then answers."""

    def script(call: ModelCall) -> Say:
        done = sum(message.role == "tool" for message in call.messages)
        return "done" if done >= calls else ToolCall(f"call_{done}", "add", f'{{"number": {done}}}')

    return ScriptedModel(script)


async def ours(urls: Urls, calls: int) -> dict[str, float]:
    """Run conversations through a shard's owner, with the recorder copying beside it."""
    async with (
        await Connection.open(urls.nats, "benchmark") as connection,
        await Store.open(urls.postgres) as store,
    ):
        await ensure_streams(connection, 1)
        clock, live = SystemClock(), Live(connection)
        agent = Agent("adder", "Add.", tools=(add,), max_steps=calls + 1)

        runtime = Runtime(
            connection=connection,
            clock=clock,
            ids=SystemIds(),
            chance=SystemChance(),
            writer=Writer(SystemIds().new("p"), "benchmark"),
            slot="benchmark",
            machines={"agent": ConversationMachine()},
            performers={"agent": AgentPerformer([agent], {"m": scripted(calls)}, "m", live, clock)},
            record=NoRecord(),
        )
        owner = ShardOwner(runtime, 0)
        recorder = Recorder(connection, store, SystemIds().new("p"), (EV,))
        tasks = [asyncio.create_task(owner.run()), asyncio.create_task(recorder.run())]
        await owner.ready.wait()
        await converse(connection, "warm", 2)
        found = {}
        for name, runs in (("alone", 1), ("together", TOGETHER)):
            began = time.perf_counter()
            await asyncio.gather(*(converse(connection, f"{name}{n}", calls) for n in range(runs)))
            found[name] = 1e3 * (time.perf_counter() - began) / (runs * 2 * calls)
        last = (await connection.api(f"STREAM.INFO.{EV}"))["state"]["last_seq"]
        stored = [one async for one in read_shard(connection, 0, START, last)]
        returned = sum(fact.type == "tool.returned" for one in stored for fact in one.envelope.facts)
        assert returned >= (1 + TOGETHER) * calls, f"{returned} results are logged"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return found


async def converse(connection: Connection, name: str, calls: int) -> None:
    """Hold one conversation to its end."""
    command = Command(
        id=f"r-{name}", tenant="acme", kind="agent", thread=f"t-{name}", verb="run", data=RunAgent("adder", "go")
    )
    async with watching(connection, f"live.acme.run.{command.id}") as watcher:
        await send_command(connection, command)
        while True:
            frame = await watcher.next(60)
            assert frame is not None, f"{name} did not end"
            if isinstance(frame, Committed) and frame.type in {"run.finished", "run.failed"}:
                assert frame.type == "run.finished", bytes(frame.data)
                return


def theirs(python: Path, name: str, url: str, calls: int) -> dict[str, float]:
    """Run a rival's script in its own interpreter."""
    argv = [str(python), str(HERE / f"rivals_{name}.py"), url, str(calls), str(TOGETHER)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed:\n{done.stdout}\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def installed() -> Path:
    """Give the rivals' interpreter, installing them if they are not there."""
    python = FOLDER / "bin" / "python"
    if not (FOLDER / "done").exists():
        print("installing", *PACKAGES, "…", flush=True)  # noqa: T201
        venv.create(FOLDER, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES], check=True)
        (FOLDER / "done").touch()
    return python


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer tool calls: under 50 s once the rivals are there")
    chosen = parser.parse_args()
    calls = 15 if chosen.quick else 50
    python = installed()
    found: dict[str, dict[str, float]] = {}
    with fresh_servers(1) as urls:
        found["ostinato"] = uvloop.run(ours(urls, calls))
        for name in ("langgraph", "dbos"):
            found[name] = theirs(python, name, urls.postgres, calls)
    print(f"{'ms per durable step':<20} {'alone':>10} {f'{TOGETHER} together':>14}")  # noqa: T201
    for name, figures in found.items():
        print(f"{name:<20} {figures['alone']:>10.2f} {figures['together']:>14.2f}")  # noqa: T201
    flat = {f"{name}_{kind}_ms": round(value, 3) for name, figures in found.items() for kind, value in figures.items()}
    print(json.dumps(flat))  # noqa: T201


if __name__ == "__main__":
    main()
