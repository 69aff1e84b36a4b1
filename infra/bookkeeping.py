"""What the host does for the record beside everything else: keeps the projections up, has what is old go.

None of it is needed to answer anybody: what fails here is told and tried again, and never ends the stack.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from actors.runtime.context import SystemClock
from bus.connection import Connection
from bus.errors import BusError
from bus.files import Files
from bus.projector import Projector
from bus.retention import expire_steps, prepare_partitions
from bus.store import Store
from bus.trim import trim
from bus.under_way import runs_under_way
from infra.settings import Settings
from infra.spans.asides import Aside, nobody_follows
from infra.spans.wanted import span_export
from schemas.context import Clock
from schemas.times import DAY

log = logging.getLogger(__name__)

_LOOK_S = 3600.0
_RETRY_S = 10.0
_COUNT_S = 3.0


class Books:
    """The projector, the step records' end, and that of JetStream's copy of the log."""

    def __init__(self, store: Store, connection: Connection, settings: Settings, clock: Clock) -> None:
        """Make it.

        Args:
            store: the record.
            connection: to NATS.
            settings: how long what is kept.
            clock: says what day it is.
        """
        self._store = store
        self._connection = connection
        self._settings = settings
        self._clock = clock
        self._projector = Projector(store)
        self._files = Files(self._opened, seals=False)
        self._expired = 0
        self._runs: dict[str, int] = {}
        self.spans = span_export(store, settings.telemetry)
        """Sends spans; None where nobody wants them."""

    @property
    def aside(self) -> Callable[[Aside], None]:
        """Hears of what is in no record and has a span."""
        return nobody_follows if self.spans is None else self.spans.tell

    async def _opened(self) -> Store:
        return self._store

    async def project(self) -> None:
        """Keep the projections up until cancelled."""
        await self._projector.run()

    async def expire(self) -> None:
        """Look every hour for what is older than it is to be kept, until cancelled."""
        while True:
            try:
                await self.look()
                pause = _LOOK_S
            except (BusError, TimeoutError) as error:
                log.warning("what is old: %s", error)
                pause = _RETRY_S
            await asyncio.sleep(pause)

    async def count(self) -> None:
        """Count runs that are not over, again and again, until cancelled."""
        while True:
            with contextlib.suppress(BusError, TimeoutError):
                self._runs = await runs_under_way(self._store)
            await asyncio.sleep(_COUNT_S)

    async def look(self) -> None:
        """Make the partitions of the next days, drop those that are older than they are to be kept, and trim the log.

        Raises:
            Unavailable: a server cannot be reached.
            LogDamaged: the log has lost more of its beginning than was trimmed.
            TimeoutError: NATS does not answer.
        """
        now = self._clock.now()
        await self._files.sweep(now)
        await prepare_partitions(self._store, now)
        if self._settings.keep_steps:
            for gone in await expire_steps(self._store, now, self._settings.keep_steps * DAY):
                self._expired += gone.rows
                log.info("%s expired: %s rows, %s MB", gone.name, gone.rows, gone.bytes >> 20)
        if self._settings.keep_log:
            done = await trim(self._connection, self._store, now - self._settings.keep_log * DAY)
            log.info("the log begins at %s: %s envelopes were trimmed %s", done.first, done.envelopes, done.held_by)

    def statistics(self) -> dict[str, Any]:
        """Say how far the projections are, and how many rows of step records expired."""
        spans = {} if self.spans is None else {"spans": self.spans.statistics()}
        projections = self._projector.statistics()
        return {"projections": projections, "expired_rows": self._expired, "runs": self._runs, **spans}


@contextmanager
def bookkeeping(store: Store, connection: Connection, settings: Settings) -> Iterator[Books]:
    """Keep books for as long as the block runs."""
    books = Books(store, connection, settings, SystemClock())
    tasks = [
        asyncio.create_task(books.project(), name="projections"),
        asyncio.create_task(books.expire(), name="retention"),
        asyncio.create_task(books.count(), name="runs"),
    ]
    if books.spans is not None:
        tasks.append(asyncio.create_task(books.spans.run(), name="spans"))
    for task in tasks:
        task.add_done_callback(_tell_why)
    try:
        yield books
    finally:
        for task in tasks:
            task.cancel()
        if books.spans is not None:
            books.spans.close()


def _tell_why(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s ended: start the stack again to have it back", task.get_name(), exc_info=error)
