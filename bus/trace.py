"""What is kept of live text: soon, by whoever has time, and the first thing to be left out when the bus is slow.

Keeping never waits. What the server has not taken waits here, within bounds, and what finds no room is counted: the
log says so, the statistics count it, and a `Shed` among the entity's frames says how many of which process are
missing. A process that is killed takes what waits with it; the offsets of the frames show that as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from types import TracebackType
from typing import Self

from bus import subjects
from bus.connection import Connection
from bus.errors import IngestLost
from bus.gathered import Gathered
from bus.ingest import Ingest, Record
from schemas import codec
from schemas.live import Delta, Shed

log = logging.getLogger(__name__)

ROOM_BYTES = 4 << 20
"""How much may wait to be known to be stored."""
_OVERHEAD_BYTES = 200
"""What a record takes in memory beside its bytes, roughly."""
_MOST_GAPS = 4096
"""Entities whose gaps are told apart; further ones are only counted."""
_LINGER_S = 1.0
"""A batch without a record for so long is ended, so that its last ones are confirmed."""
_PAUSE_S = 0.2
_CLOSE_S = 1.0


class Trace:
    """Keeps one process's records. A context manager: what waits at its end has a second to be sent."""

    def __init__(self, connection: Connection, producer: str) -> None:
        """Make it.

        Args:
            connection: to NATS.
            producer: the process (`producer_run`).
        """
        self._connection = connection
        self._producer = producer
        self._waiting: deque[Record] = deque()
        self._gaps: dict[str, Shed] = {}
        """What was left out and is not told yet, by subject."""
        self._held = 0
        self._number = 0
        self._kept = 0
        self._shed = 0
        self._some = asyncio.Event()
        self._closing = False
        self._gathered = Gathered(self._keep_delta)
        self._sending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._sending = asyncio.create_task(self._run(await Ingest.open(self._connection)), name="trace")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._sending is not None
        self._gathered.flush()
        self._closing = True
        self._some.set()
        await asyncio.wait({self._sending}, timeout=_CLOSE_S)
        self._sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sending
        if self._waiting:
            log.warning("trace: %s records were not kept: the server did not take them", len(self._waiting))

    def keep(self, subject: str, data: bytes) -> None:
        """Have a record kept, or count it when too much waits already."""
        self._number += 1
        size = _size((subject, data))
        if self._held + size > ROOM_BYTES:
            self._leave_out(subject)
            return
        self._held += size
        self._waiting.append((subject, data))
        self._some.set()

    def follow(self, subject: str, delta: Delta) -> None:
        """Have a piece of text kept, together with those that follow it at once."""
        self._gathered.add(subject, delta)

    def _keep_delta(self, subject: str, delta: Delta) -> None:
        if (keys := self._connection.keys) is not None:
            delta = keys.sealed_delta(subjects.tenant_of_frames(subject), delta)
        self.keep(subject, codec.encode(delta))

    def statistics(self) -> dict[str, int]:
        """Say how many records are stored, how much waits for that, and how many were left out."""
        return {"kept": self._kept, "waiting_bytes": self._held, "shed": self._shed}

    def _leave_out(self, subject: str) -> None:
        if not self._gaps:
            log.warning("trace: %s bytes wait, nothing more is kept: the server or the link is slow", self._held)
        self._shed += 1
        gap = self._gaps.get(subject)
        if gap is not None:
            self._gaps[subject] = Shed(self._producer, gap.first, self._number, gap.count + 1)
        elif len(self._gaps) < _MOST_GAPS:
            self._gaps[subject] = Shed(self._producer, self._number, self._number, 1)

    async def _run(self, ingest: Ingest) -> None:
        try:
            while self._waiting or self._gaps or not self._closing:
                try:
                    await self._send_all(ingest)
                    await self._rest(ingest)
                except IngestLost as lost:
                    log.info("trace: %s; trying again in %.1f s", lost, _PAUSE_S)
                    # some of it may be stored already, and will be twice: offsets tell
                    self._waiting.extendleft(reversed(ingest.give_up()))
                    await asyncio.sleep(_PAUSE_S)
        finally:
            await ingest.close()

    async def _send_all(self, ingest: Ingest) -> None:
        while self._waiting or self._tell():
            subject, data = self._waiting.popleft()
            self._stored(await ingest.send(subject, data))

    async def _rest(self, ingest: Ingest) -> None:
        """Wait for more; when none comes for a while, end the batch first."""
        self._some.clear()
        if not self._closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGER_S):
                    await self._some.wait()
        if self._waiting:
            return
        self._stored(await ingest.end())
        if not self._closing and not self._gaps:
            await self._some.wait()

    def _stored(self, records: list[Record]) -> None:
        self._kept += len(records)
        self._held -= sum(map(_size, records))

    def _tell(self) -> bool:
        """Have it kept what was left out, once half of the room is free again; say whether any of it was."""
        if not self._gaps or self._held > ROOM_BYTES // 2:
            return False
        told = list[tuple[str, Shed]]()
        for subject, gap in self._gaps.items():
            record = (subject, codec.encode(gap))
            if self._held + _size(record) > ROOM_BYTES:
                break
            self._held += _size(record)
            self._waiting.append(record)
            told.append((subject, gap))
        for subject, _ in told:
            del self._gaps[subject]
        if told:
            log.warning("trace: %s records of %s entities were left out", sum(gap.count for _, gap in told), len(told))
        return bool(told)


def _size(record: Record) -> int:
    subject, data = record
    return len(subject) + len(data) + _OVERHEAD_BYTES
