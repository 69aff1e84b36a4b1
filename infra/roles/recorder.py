"""The `recorder` role: copies the log into Postgres; before it goes, it records what is there."""

from __future__ import annotations

import asyncio

from bus.connection import Connection
from bus.recorder import Recorder
from bus.store import Store
from infra.process import Status
from infra.settings import Place


async def run(place: Place, connection: Connection, status: Status, stopping: asyncio.Event) -> None:
    """Record until told to stop and caught up."""
    async with await Store.open(place.postgres_url) as store:
        recorder = Recorder(connection, store, status.run)
        recording = asyncio.create_task(recorder.run())
        status.statistics = recorder.statistics
        status.ready = True
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({stop, recording}, return_when=asyncio.FIRST_COMPLETED)
        if recording.done():
            recording.result()
        await recorder.drain()
        recording.cancel()
        await asyncio.wait({recording})
