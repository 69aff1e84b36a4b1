"""`ostinato run AGENT "text"`: one message to an agent of the running stack, its answer as it comes."""

from __future__ import annotations

import argparse
import asyncio
import sys

from actors.runtime.context import SystemChance, SystemClock, SystemIds
from bus import subjects
from bus.connection import Connection
from infra.access import runtime_of
from infra.cli.speech import Speech
from infra.follow import follow
from infra.readback import LateStore
from schemas import codec
from schemas.commands import Command, RunAgent
from schemas.times import rfc3339


def main(options: argparse.Namespace) -> int:
    """Send the message, print the answer; exit code 1 if there is none."""
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    runtime = runtime_of(options.data)
    given = sys.stdin.read() if options.text == "-" else options.text
    text = given.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    command = agent_command(options.agent, text, options.thread)
    speech = Speech(sys.stdout)
    async with (
        await Connection.open(runtime.urls["nats"], "run") as connection,
        LateStore(runtime.urls["postgres"]) as store,
    ):
        async for frame in follow(connection, store.read_back, command):
            if options.json:
                sys.stdout.write(codec.encode(frame).decode() + "\n")
            else:
                speech.say(frame)
            sys.stdout.flush()
            speech.note(frame)
    if speech.problem is not None:
        sys.stderr.write(f"ostinato: {speech.problem.message}\n")
        return 1
    if not options.json:
        sys.stdout.write("\n")
        sys.stderr.write(f"thread {command.thread}  (continue it with --thread {command.thread})\n")
    return 0


def agent_command(agent: str, text: str, thread: str | None, tenant: str = "default") -> Command:
    """Make the command that runs an agent on a message, in a thread that exists or in a new one."""
    ids, chance = SystemIds(), SystemChance()
    return Command(
        id=ids.new("r"),
        tenant=tenant,
        kind="agent",
        thread=subjects.checked(thread, "thread") if thread is not None else ids.new("t"),
        verb="run",
        data=RunAgent(agent=agent, text=text, thread="any" if thread is None else "existing"),
        source="cli",
        time=rfc3339(SystemClock().now()),
        traceparent=f"00-{chance.bits(128):032x}-{chance.bits(64):016x}-01",
    )
