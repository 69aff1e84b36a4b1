"""Has the log recorded, for tests of what reads the record."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bus.connection import Connection
from bus.recorder import Recorder
from bus.store import Store
from bus.streams import EV, TRACE


async def record(connection: Connection, store: Store, streams: Sequence[str] = (EV, TRACE)) -> None:
    """Record all that these streams hold now."""
    recorder = Recorder(connection, store, "rec1", tuple(streams))
    task = asyncio.create_task(recorder.run())
    try:
        await recorder.drain()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
