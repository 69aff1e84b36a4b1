"""The live fan-out of commits, deltas and outcomes over core NATS: heard now or never, the log is the truth."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bus import subjects
from bus.blobs import Blobs
from bus.connection import Connection
from bus.errors import BusError, Refused
from bus.log import Stored, opened
from bus.trace import Trace
from schemas import codec
from schemas.envelope import Envelope
from schemas.errors import BadShape
from schemas.live import Committed, Delta, Frame, Outcome, Progress
from schemas.times import rfc3339

log = logging.getLogger(__name__)

QUEUE = 4096
"""Frames a watcher may be behind before the oldest are dropped and it must read the log again."""


class Live:
    """Publishes frames."""

    def __init__(self, connection: Connection, trace: Trace | None = None) -> None:
        """Make it.

        Args:
            connection: to NATS.
            trace: keeps the deltas; nothing does, unless given.
        """
        self._connection = connection
        self._trace = trace

    async def committed(self, sequence: int, envelope: Envelope) -> None:
        """Tell the watchers of each entity what an acknowledged envelope said."""
        time = rfc3339(envelope.time)
        for index, fact in enumerate(envelope.facts):
            if fact.kind == "shard" or codec.is_erased(fact.payload):
                continue
            frame = Committed(
                id=f"{sequence}-{index}",
                type=fact.type,
                subject=fact.entity,
                thread=fact.thread,
                time=time,
                tenant=fact.tenant,
                cause=fact.cause,
                version=fact.version,
                data=fact.payload,
                traceparent=fact.traceparent,
            )
            subject = subjects.live(fact.tenant, fact.kind, fact.entity)
            try:
                await self._connection.publish(subject, codec.encode(frame))
            except Refused as refusal:
                # who watches notices the gap, and reads it back
                log.warning("event %s of %s cannot be told live: %s", fact.version, fact.entity, refusal)

    async def again(self, last: Stored | None) -> None:
        """Tell what the owner before committed last: it may have ended between that and telling it.

        Whoever heard it knows it by its id.
        """
        if last is None:
            return
        try:
            envelope = await opened(self._connection, await Blobs(self._connection).whole(last.envelope))
        except (BusError, TimeoutError) as error:
            log.warning("commit %s is not told again: %s", last.envelope.commit, error)
            return
        await self.committed(last.sequence, envelope)

    async def delta(self, tenant: str, kind: str, frame: Delta) -> None:
        """Send a piece of text to the watchers, and have it kept in the trace.

        A slow link has other things to carry: watchers hear the whole text with the result all the same.
        """
        if self._trace is not None:
            self._trace.follow(subjects.frames(tenant, kind, frame.subject), frame)
        if not self._connection.is_behind:
            await self._connection.publish(subjects.live(tenant, kind, frame.subject), codec.encode(frame))

    async def progress(self, tenant: str, kind: str, frame: Progress) -> None:
        """Send what a tool says of itself to the watchers; a slow link has other things to carry."""
        if not self._connection.is_behind:
            await self._connection.publish(subjects.live(tenant, kind, frame.subject), codec.encode(frame))

    async def outcome(self, tenant: str, outcome: Outcome) -> None:
        """Tell whoever sent a command what became of it."""
        await self._connection.publish(subjects.live(tenant, "command", outcome.command), codec.encode(outcome))


class Watcher:
    """A bounded queue of frames from any number of live subjects, in order of arrival."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None
        self._due = 0.0
        """When who waits is told that nothing came, by the loop's clock."""
        self._looking: asyncio.TimerHandle | None = None
        self._looks = 0.0
        """When it is looked whether that is so."""
        self.dropped = 0
        """Frames lost because the reader was too slow."""

    def hear(self, data: bytes) -> None:
        """Queue what a message brings; the oldest goes when the queue is full."""
        try:
            frame = codec.decode_frame(data)
        except BadShape as misfit:
            log.warning("not a frame: %s", misfit)
            return
        if len(self._frames) >= QUEUE:
            self._frames.popleft()
            self.dropped += 1
        self._frames.append(frame)
        self._wake()

    async def next(self, timeout_s: float) -> Frame | None:
        """Return the next frame, or None when nothing comes in time."""
        if not self._frames:
            self._waiting = self._loop.create_future()
            self._due = self._loop.time() + timeout_s
            if self._looking is None or self._looks > self._due:
                self._look_at(self._due)
            try:
                await self._waiting
            finally:
                self._waiting = None
        return self._frames.popleft() if self._frames else None

    def deltas(self) -> list[Delta]:
        """Take the deltas that have come and are next."""
        taken, frames = list[Delta](), self._frames
        while frames and isinstance(frame := frames[0], Delta):
            taken.append(frame)
            frames.popleft()
        return taken

    def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _look_at(self, due: float) -> None:
        """Have one timer for many frames: each of its own would cost as much as all that is done with one."""
        self.close()
        self._looks = due
        self._looking = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._looking = None
        if self._waiting is None:
            return  # who waits next looks again
        if self._loop.time() < self._due:
            self._look_at(self._due)
        else:
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


@asynccontextmanager
async def watching(connection: Connection, *live_subjects: str) -> AsyncIterator[Watcher]:
    """Listen to `live.` subjects from now on; the server has the subscriptions when the body runs."""
    async with expecting(connection, *live_subjects) as watcher:
        await connection.flush()
        yield watcher


@asynccontextmanager
async def expecting(connection: Connection, *live_subjects: str) -> AsyncIterator[Watcher]:
    """Listen to what comes of something that the body sends over the same connection.

    The server reads that after the subscriptions, so nothing need be waited for.
    """
    watcher = Watcher()
    subscriptions = [await connection.listen(subject, watcher.hear) for subject in live_subjects]
    try:
        yield watcher
    finally:
        watcher.close()
        for subscription in subscriptions:
            await subscription.unsubscribe()
