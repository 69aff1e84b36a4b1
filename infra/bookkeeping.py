"""What the host does for Postgres beside everything else: keeps the projections up, and has old step records expire.

None of it is needed to answer anybody: what fails here is told and tried again, and never ends the stack.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from actors.runtime.context import SystemClock
from bus.errors import Unavailable
from bus.partitions import DAY
from bus.projector import Projector
from bus.retention import expire_steps, prepare_partitions
from bus.store import Store
from schemas.context import Clock

log = logging.getLogger(__name__)

_LOOK_S = 3600.0
_RETRY_S = 10.0


class Books:
    """The projector, and the step records' end."""

    def __init__(self, store: Store, keep_days: int, clock: Clock) -> None:
        """Make it.

        Args:
            store: the record.
            keep_days: how long step records stay; 0 is for ever.
            clock: says what day it is.
        """
        self._store = store
        self._keep_days = keep_days
        self._clock = clock
        self._projector = Projector(store)
        self._expired = 0

    async def project(self) -> None:
        """Keep the projections up until cancelled."""
        await self._projector.run()

    async def expire(self) -> None:
        """Look after the partitions of step records every hour, until cancelled."""
        while True:
            try:
                await self.look()
                pause = _LOOK_S
            except Unavailable as error:
                log.warning("step records: %s", error)
                pause = _RETRY_S
            await asyncio.sleep(pause)

    async def look(self) -> None:
        """Make the partitions of the next days, and drop those that are older than they are to be kept.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        now = self._clock.now()
        await prepare_partitions(self._store, now)
        if not self._keep_days:
            return
        for gone in await expire_steps(self._store, now, self._keep_days * DAY):
            self._expired += gone.rows
            log.info("%s expired: %s rows, %s MB", gone.name, gone.rows, gone.bytes >> 20)

    def statistics(self) -> dict[str, Any]:
        """Say how far the projections are, and how many rows of step records expired."""
        return {"projections": self._projector.statistics(), "expired_rows": self._expired}


@contextmanager
def bookkeeping(store: Store, keep_days: int) -> Iterator[Books]:
    """Keep books for as long as the block runs."""
    books = Books(store, keep_days, SystemClock())
    tasks = [
        asyncio.create_task(books.project(), name="projections"),
        asyncio.create_task(books.expire(), name="retention"),
    ]
    for task in tasks:
        task.add_done_callback(_tell_why)
    try:
        yield books
    finally:
        for task in tasks:
            task.cancel()


def _tell_why(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s ended: start the stack again to have it back", task.get_name(), exc_info=error)
