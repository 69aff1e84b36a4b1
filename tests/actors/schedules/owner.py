"""A process that owns shard 0 and dies at a schedule: `python -m tests.actors.schedules.owner URL WHEN [DATABASE]`.

It says `firing` when a fire is logged and its command is not sent (`before`), or is and that is not logged (`after`);
`erased` when the key of one that was removed is destroyed and that is not logged (`erased`). Then it waits for its end.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack

from actors.testing import ScriptedModel
from bus.commands import send_command
from bus.connection import Connection
from bus.store import Store
from infra.erasing import StackEraser
from schemas.commands import Command
from tests.actors.runtime.bench import Bench, answering, owning
from tests.actors.schedules.clocks import HOUR, NOON, Alarm, firing
from tests.bus.test_keyring import giving, ring


async def _own(url: str, when: str, database: str = "") -> None:
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(await Connection.open(url, "dying"))
        erase = None

        async def send(command: Command) -> None:
            if when == "after":
                await send_command(connection, command)
            await _wait_for_the_end("firing")

        if database:
            store = await stack.enter_async_context(await Store.open(database))
            connection.keys = ring(store)
            eraser = StackEraser(connection, giving(store))

            async def erase(tenant: str, schedule: str, key: str | None) -> int:
                await eraser.erase_schedule(tenant, schedule, key)
                return await _wait_for_the_end("erased")

        bench = Bench(connection, url, ScriptedModel(answering))
        runtime = firing(bench, "dying", Alarm(NOON + HOUR), send if when != "erased" else None, erase=erase)
        await stack.enter_async_context(owning(runtime))
        await asyncio.Event().wait()


async def _wait_for_the_end(what: str) -> int:
    print(what, flush=True)  # noqa: T201
    await asyncio.Event().wait()
    return 0


if __name__ == "__main__":
    asyncio.run(_own(*sys.argv[1:]))
