"""Keeps the projections up with the record, for as long as it runs."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import asyncpg

from bus.errors import BusError, Unavailable
from bus.projecting import PAGE, At, Build, advance, furthest_behind, live_builds
from bus.rebuild import RebuildBusy, Told, rebuild, unfit
from bus.store import Store
from schemas.errors import SchemaError
from schemas.faults import fault

log = logging.getLogger(__name__)

_POLL_S = 0.25
_BUSY_S = 0.1
_RETRY_S = (0.1, 5.0)
"""The first and the longest pause between two tries."""


class Projector:
    """Fills the projections; any number of them may run."""

    def __init__(self, store: Store, page: int = PAGE) -> None:
        """Make it.

        Args:
            store: the record.
            page: how many events a batch may have.
        """
        self._store = store
        self._page = page
        self._builds: list[Build] = []
        self._end = At(1, 0)
        self._problem = ""

    async def run(self) -> None:
        """Keep up until cancelled; Postgres being away is waited for, and what is not as it should be made again."""
        pause = _RETRY_S[0]
        while True:
            try:
                idle = await self._keep_up()
            except (BusError, SchemaError, asyncpg.PostgresError) as error:
                if not isinstance(error, Unavailable | RebuildBusy):
                    # the library's words hold the values of the row
                    log.error("the projections do not move: %s", fault(error))  # noqa: TRY400
                self._problem = str(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RETRY_S[1])
            else:
                self._problem = ""
                pause = _RETRY_S[0]
                if idle:
                    await asyncio.sleep(_POLL_S)

    async def catch_up(self, told: Told = lambda _done, _all: None) -> bool:
        """Take all that is recorded by now into the projections that are there.

        Args:
            told: hears how far it is.

        Returns:
            Whether there was nothing to take.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        await self._look()
        return await self._go_on(told)

    def statistics(self) -> dict[str, Any]:
        """Say how far each projection was when it was last looked at, and how far behind the record."""
        found: dict[str, Any] = {
            build.name: {
                "sequence": build.at.sequence,
                "incarnation": build.at.incarnation,
                "behind": max(0, self._end.sequence - build.at.sequence),
            }
            for build in self._builds
        }
        return found | {"problem": self._problem}

    async def _keep_up(self) -> bool:
        await self._look()
        if missing := unfit(self._builds):
            log.info("projections are made from the log: %s", ", ".join(missing))
            await rebuild(self._store, missing, page=self._page)
            await self._look()
        return await self._go_on()

    async def _go_on(self, told: Told = lambda _done, _all: None) -> bool:
        end, idle = self._end, True
        while behind := [build for build in self._builds if build.at < end]:
            idle = False
            told(min(build.at.sequence for build in behind), end.sequence)
            await advance(self._store, *furthest_behind(behind, end), self._page)
            await self._look()
        return idle

    async def _look(self) -> None:
        self._builds, self._end = await live_builds(self._store)


async def bring_up(store: Store, told: Told = lambda _done, _all: None) -> None:
    """Bring the projections up to all that is recorded by now, made anew where need be, whoever else does so too.

    Args:
        store: the record.
        told: hears how far it is.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    while missing := unfit((await live_builds(store))[0]):
        try:
            await rebuild(store, missing, told)
        except RebuildBusy:
            await asyncio.sleep(_BUSY_S)
    await Projector(store).catch_up(told)
