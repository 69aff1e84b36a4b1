"""A process that owns shard 0 and dies while it fires: `python -m tests.actors.schedules.owner URL before|after`.

It says `firing` when the fire is logged and its command is not sent (`before`), or is and that is not logged (`after`),
and then waits to be killed.
"""

from __future__ import annotations

import asyncio
import sys

from actors.testing import ScriptedModel
from bus.commands import send_command
from bus.connection import Connection
from schemas.commands import Command
from tests.actors.runtime.bench import Bench, answering, owning
from tests.actors.schedules.clocks import HOUR, NOON, Alarm, firing


async def _own(url: str, when: str) -> None:
    async with await Connection.open(url, "dying") as connection:

        async def send(command: Command) -> None:
            if when == "after":
                await send_command(connection, command)
            print("firing", flush=True)  # noqa: T201
            await asyncio.Event().wait()

        bench = Bench(connection, url, ScriptedModel(answering))
        async with owning(firing(bench, "dying", Alarm(NOON + HOUR), send)):
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_own(*sys.argv[1:]))
