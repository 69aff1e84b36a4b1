"""The end of a stack's serving: nothing new is begun, what is under way may finish, and what is left is ended."""

from __future__ import annotations

import contextlib

from bus import subjects
from bus.connection import Connection
from bus.errors import BusError
from infra.bridge.under_way import UnderWay
from infra.settings import EngineSettings


async def drain(connection: Connection, engine: EngineSettings, under_way: UnderWay) -> None:
    """Have the scheduler take no more requests, and wait for those of HTTP clients, as long as the settings say.

    What agents ask from now on waits for the next scheduler: their runs are in the log, and go on with the next start.
    """
    with contextlib.suppress(BusError):  # one that hears nothing ends with the stack all the same
        await connection.publish(subjects.drain(engine.name), b"")
    await under_way.drain(engine.shutdown_timeout_s)
