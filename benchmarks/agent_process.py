"""A process of the stack that `benchmarks/agent.py` measures: `python -m benchmarks.agent_process ROLE NATS POSTGRES`.

`agents` owns the shards as the process of that name does, with a scripted model in place of an engine; `host` keeps
the projections. The recorder is the stack's own (`infra.process`). Each says `ready` and ends with its input.
`--profile FILE` writes what `cProfile` saw between two lines of input.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import sys
from dataclasses import dataclass
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from actors.agent.actor import AgentPerformer
from actors.agent.definition import Agent
from actors.machines import MACHINES
from actors.models.provider import ModelAnswer, ModelCall, OnText, Piece
from actors.runtime.context import SystemChance, SystemClock, SystemIds
from actors.runtime.partitions import own_shards
from actors.runtime.shard import Runtime, ShardOwner
from actors.services import BusServices
from actors.serving.prompt import GenerationPerformer
from actors.tools import tool
from bus.commit import Writer
from bus.connection import Connection
from bus.lease import Leases
from bus.live import Live
from bus.store import Store
from bus.trace import Trace
from infra.bookkeeping import bookkeeping
from infra.readback import LateStore
from infra.runs import BusRuns
from infra.settings import Settings
from schemas.generation import Sampling
from schemas.messages import ToolCall, Usage
from schemas.programs import ProgramNote

SHARDS = 4


@tool(effect="idempotent")
def add(number: int) -> str:
    """Add one."""
    return str(number + 1)


@tool(effect="once", needs_approval=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


@dataclass
class Speaker:
    """A model that says as many words as the last message asks for, each in a turn of the loop of its own.

    `add 8` calls a tool first, `pay 8` one that needs a person; `slowly 8` leaves 2 ms between two words, as an engine
    does.
    """

    async def note(self, note: ProgramNote) -> None:
        """Hear of no program."""

    async def abort(self, request: str) -> None:
        """Have nothing to stop."""

    async def search(self, call: ModelCall) -> list[ModelAnswer]:
        """Have nothing to search."""
        raise NotImplementedError

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Answer."""
        last = call.messages[-1]
        asked = next(message.content for message in reversed(call.messages) if message.role == "user")
        verb, _, count = asked.partition(" ")
        usage = Usage(prompt_tokens=len(call.messages), completion_tokens=int(count))
        if verb in {"add", "pay"} and last.role == "user":
            arguments = '{"number": 1}' if verb == "add" else '{"amount": 1}'
            return ModelAnswer("", "tool_calls", usage, tool_calls=(ToolCall(f"{call.effect}-k", verb, arguments),))
        offset, words = 0, ["word", *(" word" for _ in range(int(count) - 1))]
        for word in words:
            await on_text(Piece(offset, word))
            offset += len(word)
            await asyncio.sleep(0.002 if verb == "slowly" else 0)
        return ModelAnswer("".join(words), "stop", usage)


async def agents(nats: str, postgres: str, stopping: asyncio.Event) -> None:
    """Own the shards."""
    clock, process = SystemClock(), SystemIds().new("p")
    made = [Agent("speaker", "Speak.", tools=[add, pay], max_steps=4)]
    async with (
        await Connection.open(nats, "agents-0") as connection,
        Trace(connection, process) as trace,
        LateStore(postgres) as record,
    ):
        live, models = Live(connection, trace), {"m": Speaker()}
        services, runs = BusServices(connection), BusRuns(connection, record.read_back)
        runtime = Runtime(
            connection=connection,
            clock=clock,
            ids=SystemIds(),
            chance=SystemChance(),
            writer=Writer(process, "benchmark"),
            slot="agents-0",
            machines=MACHINES,
            performers={
                "agent": AgentPerformer(made, models, "m", live, clock, services, runs),
                "generation": GenerationPerformer(models, Sampling(), live),
            },
            record=record,
        )

        async def ready(_: frozenset[int]) -> None:
            if owners and all(owner.ready.is_set() for owner in owners.values()):
                say("ready")

        owners: dict[int, ShardOwner] = {}
        leases = Leases(connection, "agents-0", process)
        owning = asyncio.create_task(own_shards(runtime, leases.ownership(SHARDS), ready, owners))
        await stopping.wait()
        owning.cancel()
        await asyncio.gather(owning, return_exceptions=True)


async def host(nats: str, postgres: str, stopping: asyncio.Event) -> None:
    """Keep the projections."""
    async with await Connection.open(nats, "host") as connection, await Store.open(postgres) as store:
        with bookkeeping(store, connection, Settings()):
            say("ready")
            await stopping.wait()


def say(word: str) -> None:
    """Tell whoever started us."""
    print(word, flush=True)  # noqa: T201


async def heed_input(stopping: asyncio.Event, profile: str) -> None:
    """Profile between two lines, where that is wanted, and stop at the end of the input."""
    seen = cProfile.Profile()
    while line := await asyncio.to_thread(sys.stdin.readline):
        if profile and line == "begin\n":
            seen.enable()
        if profile and line == "end\n":
            seen.disable()
            seen.dump_stats(profile)
        say("heard")
    stopping.set()


async def run(options: argparse.Namespace) -> None:
    """Be the process."""
    stopping = asyncio.Event()
    heeding = asyncio.create_task(heed_input(stopping, options.profile))
    await {"agents": agents, "host": host}[options.role](options.nats, options.postgres, stopping)
    await heeding


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=["agents", "host"])
    parser.add_argument("nats")
    parser.add_argument("postgres")
    parser.add_argument("--profile", default="")
    uvloop.run(run(parser.parse_args()))
