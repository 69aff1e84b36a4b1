"""Files and batches of one stack, for its bridge and its command line: brought, begun, looked at, ended."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from actors.runtime.context import SystemClock, SystemIds
from bus import subjects
from bus.batched import BatchRow, batch_of, batches_of, open_batches
from bus.connection import Connection
from bus.errors import BadSubject
from bus.files import Cutter, FileRow, Files, NoSuchFile
from bus.slots import one_at_a_time
from bus.store import Store
from infra.errors import BatchUnfit
from infra.follow import send
from infra.settings import BatchSettings, Settings
from schemas.batches import MOST_WINDOW_S, Batch, BatchCommand, CancelBatch, CreateBatch
from schemas.commands import Command
from schemas.context import Clock, Ids
from schemas.messages import Usage
from schemas.times import rfc3339

PURPOSE: Final = "batch"
_WINDOW: Final = re.compile(r"([0-9]{1,7})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_RECORD_S: Final = 0.05
"""The record is a moment behind what clients have heard."""
_LATE_S: Final = 2.0


@dataclass(frozen=True)
class BatchDesk:
    """What clients can do with files and batches, each with its own tenant's."""

    connection: Connection
    opened: Callable[[], Awaitable[Store]]
    files: Files
    ids: Ids
    clock: Clock
    limits: BatchSettings
    source: str = "http"
    """Who asks, for the log."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def bring(self, tenant: str, name: str, pieces: AsyncIterator[bytes], expires_s: int = 0) -> FileRow:
        """Keep a file of requests; durable when this returns.

        Args:
            tenant: whose it is.
            name: what its client calls it.
            pieces: its content.
            expires_s: seconds after which it is deleted; 0 is never.

        Raises:
            BatchUnfit: it is too large, has nothing in it, or its tenant has too many.
            LineTooLong: a line of it is.
            Unavailable: Postgres cannot be reached.
        """
        now = self.clock.now()
        await self.files.sweep(now)
        room = (self.limits.storage_mb << 20) - await self.files.used(tenant)
        identity = self.ids.new("file-")
        await self.files.begin(tenant, identity, name, PURPOSE, now, now + expires_s * 1_000_000 if expires_s else 0)
        try:
            await self._fill(tenant, identity, pieces, room)
            row = await self.files.complete(tenant, identity)
            await self._refuse_excess(tenant)  # others may have come in beside it
        except BaseException:
            await asyncio.shield(self.files.delete(tenant, identity))
            raise
        if row is None:
            raise BatchUnfit("file", "file: there is nothing in it: give one request a line")
        return row

    async def _fill(self, tenant: str, identity: str, pieces: AsyncIterator[bytes], room: int) -> None:
        cutter, size = Cutter(), 0
        async for piece in pieces:
            size += len(piece)
            if size > self.limits.file_mb << 20:
                raise BatchUnfit("file", f"file: larger than {self.limits.file_mb} MiB: make it several", "too_large")
            if size > room:
                raise self._full()
            for at, part in cutter.feed(piece):
                await self.files.put(tenant, identity, at, part)
        for at, part in cutter.rest():
            await self.files.put(tenant, identity, at, part)

    async def _refuse_excess(self, tenant: str) -> None:
        if await self.files.used(tenant) > self.limits.storage_mb << 20:
            raise self._full()

    def _full(self) -> BatchUnfit:
        most = f"{self.limits.storage_mb} MiB"
        return BatchUnfit("file", f"file: all files together may have {most}: delete what is not needed", "too_large")

    async def file(self, tenant: str, identity: str) -> FileRow:
        """Return what is known of a file.

        Raises:
            NoSuchFile: there is none.
            Unavailable: Postgres cannot be reached.
        """
        row = await self.files.find(tenant, identity) if is_id(identity) else None
        if row is None or not row.complete or 0 < row.expires <= self.clock.now():
            raise NoSuchFile(identity)
        return row

    async def create(self, tenant: str, batch: Batch) -> BatchRow:
        """Begin a batch.

        Raises:
            BatchUnfit: its file is not there, or too many are open.
            Unavailable: a server cannot be reached.
            TimeoutError: nobody answered.
        """
        try:
            row = await self.file(tenant, batch.input_file)
        except NoSuchFile as error:
            raise BatchUnfit("input_file_id", f"input_file_id: {error}", "not_found") from error
        if row.purpose != PURPOSE:
            raise BatchUnfit("input_file_id", f"input_file_id: this file is for {row.purpose!r}, not for {PURPOSE!r}")
        # this process asks with one connection at a time: there are few
        async with self._turn, one_at_a_time(await self.opened(), f"batches of {tenant}"):
            return await self._created(tenant, batch)

    async def _created(self, tenant: str, batch: Batch) -> BatchRow:
        """Begin a batch if there is room: nobody else begins one of this tenant's meanwhile, in whatever process."""
        if await open_batches(await self.opened(), tenant) >= self.limits.open:
            message = f"{self.limits.open} batches are open: wait for one, or cancel one"
            raise BatchUnfit(None, message, "too_many")
        identity, now = self.ids.new("batch_"), self.clock.now()
        await self._send(tenant, identity, CreateBatch(batch))
        expires = now + batch.window_s * 1_000_000
        about = (tenant, identity, batch, "validating", now, expires, None, None, None, None, 0, 0, 0, Usage())
        return await self._seen(tenant, identity) or BatchRow(*about, "", "", ())

    async def batch(self, tenant: str, identity: str) -> BatchRow | None:
        """Return how a batch stands; None where there is none.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        return await batch_of(await self.opened(), tenant, identity) if is_id(identity) else None

    async def cancel(self, tenant: str, identity: str) -> BatchRow | None:
        """End a batch, and return how it stands; None where there is none. One that is over stays as it is.

        Raises:
            Unavailable: a server cannot be reached.
            TimeoutError: nobody answered.
        """
        row = await self.batch(tenant, identity)
        if row is None or row.ended is not None:
            return row
        await self._send(tenant, identity, CancelBatch())
        for _ in range(int(_LATE_S / _RECORD_S)):
            row = await batch_of(await self.opened(), tenant, identity)
            if row is not None and (row.cancelling is not None or row.ended is not None):
                break
            await asyncio.sleep(_RECORD_S)
        return row

    async def listed(self, tenant: str, after: str | None, limit: int) -> list[BatchRow]:
        """List batches, the latest first.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        return await batches_of(await self.opened(), tenant, after, limit)

    async def _seen(self, tenant: str, identity: str) -> BatchRow | None:
        """Wait until a batch that was begun a moment ago is in the book."""
        for _ in range(int(_LATE_S / _RECORD_S)):
            row = await batch_of(await self.opened(), tenant, identity)
            if row is not None:
                return row
            await asyncio.sleep(_RECORD_S)
        return None

    async def _send(self, tenant: str, batch: str, data: BatchCommand) -> None:
        verb, time = str(data.__struct_config__.tag), rfc3339(self.clock.now())
        command = Command(self.ids.new("b"), tenant, "batch", batch, verb, data, self.source, time)
        outcome = await send(self.connection, command)
        if outcome.problem is not None:
            raise BatchUnfit(outcome.problem.field, outcome.problem.message)


def batch_desk(settings: Settings, connection: Connection, store: Store, source: str = "http") -> BatchDesk:
    """Make the desk of a stack's host, or of whoever reaches its servers."""

    async def opened() -> Store:
        return store

    files = Files(opened, seals=settings.privacy.sealed != "off")
    return BatchDesk(connection, opened, files, SystemIds(), SystemClock(), settings.batches, source)


def window_of(text: str) -> int:
    """Read how long a batch may take, in seconds: `24h`, or another number with s, m, h or d.

    Raises:
        BatchUnfit: it is none, or too long.
    """
    found = _WINDOW.fullmatch(text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 1 <= seconds <= MOST_WINDOW_S:
        wanted = f"completion_window: '24h', or another time up to {MOST_WINDOW_S // 86_400}d, such as '30m'"
        raise BatchUnfit("completion_window", wanted)
    return seconds


def is_id(identity: str) -> bool:
    """Say whether something may be called that: nothing else is asked of the database."""
    try:
        subjects.checked(identity, "id")
    except BadSubject:
        return False
    return True
