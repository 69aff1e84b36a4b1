"""Bounds that all processes of a stack keep together: locks of Postgres, which end with whoever holds them."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from bus.errors import Unavailable
from bus.store import OUT_OF_REACH, Store

log = logging.getLogger(__name__)

_SOON_S, _LATE_S = 0.05, 1.0
"""The first and the longest pause before it is looked again whether there is a place."""


@asynccontextmanager
async def one_at_a_time(store: Store, what: str) -> AsyncIterator[None]:
    """Keep out everybody else who does this with the same database, in whatever process.

    Raises:
        Unavailable: Postgres cannot be reached, or somebody else takes too long.
    """
    async with store.transaction() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", _number(what), 0)
        yield


class Slots:
    """So many places for all processes together.

    A process that is killed leaves its places at once. While Postgres is away nobody gets one; who has one keeps it,
    and another process may get it too when Postgres has come back: for as long as that takes there are too many.
    """

    def __init__(self, opened: Callable[[], Awaitable[Store]], what: str, count: int) -> None:
        """Make them: what they are called is known to all who share them."""
        self._opened = opened
        self._class = _number(what)
        self._count = count
        self._held: set[int] = set()
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._turn = asyncio.Lock()
        """Of those here who want a place: whoever came first gets the next."""
        self._asking = asyncio.Lock()
        self._leaving: set[asyncio.Future[None]] = set()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Take a place as soon as there is one, and leave it."""
        number = await self._taken()
        try:
            yield
        finally:
            await asyncio.shield(self._leave(number))

    async def close(self) -> None:
        """Leave all places."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _taken(self) -> int:
        pause = _SOON_S
        async with self._turn:
            while True:
                taking = asyncio.ensure_future(self._take())
                try:
                    number = await asyncio.shield(taking)
                except asyncio.CancelledError:
                    taking.add_done_callback(self._unwanted)
                    raise
                if number is not None:
                    return number
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LATE_S)

    async def _take(self) -> int | None:
        async with self._asking:
            free = [number for number in range(self._count) if number not in self._held]
            connection = await self._connected() if free else None
            number: int | None = None if connection is None else await self._asked(connection, _TAKE, free)
            if number is not None:
                self._held.add(number)
            return number

    def _unwanted(self, taking: asyncio.Future[int | None]) -> None:
        """Leave a place that nobody waits for any more."""
        if not taking.cancelled() and taking.exception() is None and (number := taking.result()) is not None:
            leaving = asyncio.ensure_future(self._leave(number))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def _leave(self, number: int) -> None:
        async with self._asking:
            if self._connection is not None and not self._connection.is_closed():  # a lock ends with its connection
                await self._asked(self._connection, _LEAVE, number)
            self._held.discard(number)

    async def _asked(self, connection: asyncpg.Connection[asyncpg.Record], sql: str, about: Any) -> Any:
        """Ask Postgres; None where it is away."""
        try:
            return await connection.fetchval(sql, self._class, about)
        except OUT_OF_REACH as error:
            log.warning("places cannot be had from Postgres now: %s", error)
            await self.close()
            return None

    async def _connected(self) -> asyncpg.Connection[asyncpg.Record] | None:
        if self._connection is None or self._connection.is_closed():
            try:
                self._connection = await asyncpg.connect((await self._opened()).url, timeout=5, command_timeout=60)
            except (Unavailable, *OUT_OF_REACH) as error:
                log.warning("places cannot be had from Postgres now: %s", error)
        return self._connection


def _number(what: str) -> int:
    """Name a kind of locks as Postgres does."""
    return zlib.crc32(what.encode()) - (1 << 31)


# the filter is asked row by row, and the first row for which it holds is the last that is asked
_TAKE = "SELECT number FROM unnest($2::integer[]) AS number WHERE pg_try_advisory_lock($1, number) LIMIT 1"
_LEAVE = "SELECT pg_advisory_unlock($1, $2)"
