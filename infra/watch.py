"""Watches what the log stands on: how much disk is left, and whether the server still takes writes.

A nats-server whose disk was full answers nothing and stays so after space is freed, until it is started again: a
check that only reads does not notice. So this one writes, and admission is closed before the disk is full. Its write
tells of one stream alone: of the others the server's log does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from bus import subjects
from bus.admission import close_admission, open_admission
from bus.connection import Connection, accepted
from bus.errors import BusError
from infra.services.data_directory import NEEDED_BYTES, free_space
from infra.services.nats_server import NatsServer

log = logging.getLogger(__name__)

LOW_BYTES = NEEDED_BYTES // 2
"""With less free space than this no new command is taken; with twice as much they are again."""
FULL_BYTES = 16 << 20
"""With less than this, writes may have failed: the server is started anew when there is space again, and no stream's
settings are changed before."""
_LOOK_S = 1.0
_WRITE_EVERY = 5
"""Looks between two writes that succeed."""
_WRITE_S = 2.0
_DOUBT = 2
"""Writes that fail one after the other before those who ask are told."""
_STUCK = 5
"""Writes that fail one after the other before the server is called stuck."""
_MIB = 1 << 20


def closes(closed: bool, free: int) -> bool:
    """Say whether admission should be closed, given whether it is: two limits, so that it does not flap."""
    return free < (2 * LOW_BYTES if closed else LOW_BYTES)


class Watch:
    """Closes and opens admission, and ends a server that takes no writes; who keeps the servers starts it again."""

    def __init__(
        self,
        connection: Connection,
        server: NatsServer,
        places: Sequence[Path],
        notice: Callable[[str], None],
        free: Callable[[Path], int] = free_space,
    ) -> None:
        """Make it.

        Args:
            connection: to the server.
            server: our own nats-server.
            places: folders on every disk that is written to.
            notice: hears what a person should know.
            free: how many bytes are free where a folder lies.
        """
        self._connection = connection
        self._server = server
        self._places = places
        self._notice = notice
        self._free = free
        self._failures = 0
        self._stuck = ""
        """Why streams of the server may take no writes until it is started anew."""
        self._is_shut = False
        """Whether JetStream was told; a start leaves it open."""
        self.free_mb = 0
        self.closed = False
        """Whether new commands are refused because the disk is nearly full."""

    @property
    def trouble(self) -> str:
        """Why nothing new can be taken, and what mends it; empty while all is well."""
        if self.closed:
            return f"the disk is nearly full, {self.free_mb} MB are free: free some space"
        return "the log takes no writes at the moment: try again" if self._failures >= _DOUBT else ""

    async def run(self) -> None:
        """Watch until cancelled."""
        looks = 0
        while True:
            free = await asyncio.to_thread(self._least_free)
            self.free_mb = free // _MIB
            self._stuck = await asyncio.to_thread(self._why_stuck, free) or self._stuck
            await self._settle(closes(self.closed, free), free)
            if self._failures or looks % _WRITE_EVERY == 0:
                await self._write(free)
            looks += 1
            await asyncio.sleep(_LOOK_S)

    def _least_free(self) -> int:
        """Return the bytes free on the fullest disk; one that cannot be asked takes nothing. Blocks."""
        try:
            return min(map(self._free, self._places))
        except OSError as error:
            log.warning("the disk cannot be asked for its free space: %s", error)
            return 0

    def _why_stuck(self, free: int) -> str:
        """Blocks."""
        try:
            error = self._server.write_error()
        except OSError as problem:
            log.warning("the server's log cannot be read: %s", problem)
            error = ""
        return "the disk was full" if free < FULL_BYTES else error

    async def _settle(self, closed: bool, free: int) -> None:
        """Close or open admission, tried again at every look until it is done, and tell of it.

        Nearly full is said before the door is shut, and that all is well after it is open.
        """
        if closed and not self.closed:
            self.closed = True
            self._notice(f"{self.trouble} (until {2 * LOW_BYTES // _MIB} MB are free, new commands are refused)")
        if self._stuck and not closed:
            # a stream that could not be written to stays stuck, though others take writes
            why, self._stuck = self._stuck, ""
            await self._end(why)
            return  # what is asked of a server that ends is never answered: at the next look there is another one
        if free < FULL_BYTES:
            # nats-server writes a stream's settings and their checksum one after the other: when there is room for one
            # of them alone, it does not know the stream any more after its next start
            return
        try:
            await self._shut(closed)
        except (BusError, TimeoutError) as error:
            log.warning("admission: %s", error)
            return
        if self.closed and not closed:
            self.closed = False
            self._notice(f"{self.free_mb} MB are free again: new commands are taken")

    async def _shut(self, closed: bool) -> None:
        if closed and not self._is_shut:
            await close_admission(self._connection, self.trouble)
        elif self._is_shut and not closed:
            await open_admission(self._connection)
        self._is_shut = closed

    async def _write(self, free: int) -> None:
        try:
            accepted(await self._connection.request(subjects.health("host"), b"", _WRITE_S))
        except (BusError, TimeoutError) as error:
            self._failures += 1
            log.warning("the log takes no writes (%s in a row): %s", self._failures, error)
        else:
            self._failures = 0
        if self._failures >= _STUCK and free >= LOW_BYTES and self._server.poll() is None:
            await self._end("it takes no writes")

    async def _end(self, why: str) -> None:
        self._failures = 0
        self._notice(f"nats is started anew: {why}")
        await self._server.stop()
