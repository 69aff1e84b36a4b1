"""Copies the log into Postgres: every event exactly once, and every gap seen.

Each stream has a cursor in Postgres, and a batch of rows and the cursor's move are one transaction. So nothing that
may happen to this process, to NATS or to Postgres can lose or double a row: whoever comes next reads the cursor and
goes on from there. The newest recorder owns the cursors; an older one finds out at its next batch and stops.

EV must be whole: a gap or a broken chain stops the recorder with `LogDamaged`. TRACE may lose its tail when the
machine fails; what is missing is written to table `gap`, and when the stream comes back shorter than what is
recorded, the sequences used anew belong to a new incarnation.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, Protocol, TypeVar

from bus.batch import on_leader
from bus.blobs import Blobs
from bus.connection import Connection
from bus.errors import LogDamaged, Refused, Unavailable
from bus.feed import Feed, FeedLost, Item
from bus.partitions import EXPIRING, Partitions, oldest_sequence
from bus.rows import EventRows, TraceRows, parts, with_blobs
from bus.store import COLUMNS, Batch, Cursor, Store
from bus.streams import EV, TRACE
from schemas import codec

log = logging.getLogger(__name__)

LINGER_S = {EV: 0.02, TRACE: 0.25}
"""How long the first message of a batch waits for others: a commit is to be seen soon, but a trace is to take as little
as it can of the time of the model whose steps it tells of."""
_RETRY_S = (0.05, 2.0)
"""The first and the longest pause between two tries."""

T = TypeVar("T")


class Lag(NamedTuple):
    """How far the copy of a stream is behind."""

    stream: str
    recorded: int
    last: int

    @property
    def messages(self) -> int:
        """How many messages are yet to be copied."""
        return max(0, self.last - self.recorded)


class Rows(Protocol):
    """Makes a stream's messages into rows."""

    missing: int
    """How many messages are known never to have come, by their own numbers."""

    def batch(self, cursor: Cursor, items: list[Item]) -> Batch:
        """Return the rows of the messages after `cursor`, checked."""

    def keep(self, batch: Batch) -> None:
        """Remember that the batch is recorded."""


class Recorder:
    """Copies EV and TRACE; one at a time per database.

    `process` is this process's id (`producer_run`), unlike that of every other recorder that ever was.
    """

    def __init__(
        self, connection: Connection, store: Store, process: str, streams: tuple[str, ...] = (EV, TRACE)
    ) -> None:
        self._connection = connection
        connection.on_reconnect(self._reconnected)
        self._copies = {stream: Copy(connection, store, stream, process) for stream in streams}

    async def run(self) -> None:
        """Copy until cancelled. NATS or Postgres being away is waited for.

        Raises:
            RecorderFenced: another recorder took over.
            LogDamaged: EV has a gap, or bytes that are not those that were written.
        """
        tasks = [asyncio.create_task(copy.run(), name=f"record-{name}") for name, copy in self._copies.items()]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a copy ends by raising
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def drain(self, targets: Mapping[str, int] | None = None, deadline_s: float = 5.0) -> None:
        """Wait, while `run` runs, until the streams are recorded up to these sequences.

        Args:
            targets: stream to sequence; what the streams hold now, unless said.
            deadline_s: how long to wait, seconds.

        Raises:
            TimeoutError: it took longer.
            BusError: what `run` stopped with, or NATS cannot say what the streams hold.
        """
        async with asyncio.timeout(deadline_s):
            if targets is None:
                targets = {lag.stream: lag.last for lag in await self.lag()}
            for stream, sequence in targets.items():
                await self._copies[stream].reached(sequence)

    def statistics(self) -> dict[str, dict[str, int]]:
        """Say how far each stream is copied, and how far behind it was when messages came last."""
        return {name: copy.statistics() for name, copy in self._copies.items()}

    async def lag(self) -> list[Lag]:
        """Return how far each copy is behind.

        Raises:
            BusError: NATS cannot say.
        """
        return [
            Lag(name, copy.recorded, (await _bounds(self._connection, name))[1]) for name, copy in self._copies.items()
        ]

    async def _reconnected(self) -> None:
        for copy in self._copies.values():
            copy.wake()


class Copy:
    """The copy of one stream."""

    def __init__(self, connection: Connection, store: Store, stream: str, process: str) -> None:
        self._connection = connection
        self._store = store
        self._stream = stream
        self._process = process
        self._cursor = Cursor(stream, 1, 0, "")
        self._blobs = Blobs(connection)
        self._partitions = Partitions(store)
        self._feed: Feed | None = None
        self._rows: Rows | None = None
        self._checked = False
        """Whether the stream is known to be the one the cursor speaks of."""
        self._failure: Exception | None = None
        self._moved = asyncio.Condition()

    @property
    def recorded(self) -> int:
        """The last sequence that is in Postgres, as far as this process knows."""
        return self._cursor.sequence

    def statistics(self) -> dict[str, int]:
        """Say how far the stream is copied."""
        behind = 0 if self._feed is None else self._feed.behind
        missing = 0 if self._rows is None else self._rows.missing
        incarnation = self._cursor.incarnation
        return {"recorded": self._cursor.sequence, "incarnation": incarnation, "behind": behind, "missing": missing}

    def wake(self) -> None:
        """Notice at once that the connection is another one."""
        if self._feed is not None:
            self._feed.wake()

    async def reached(self, sequence: int) -> None:
        """Wait until `sequence` is recorded; raise what stopped the copy if it has stopped."""
        async with self._moved:
            await self._moved.wait_for(
                lambda: self._failure is not None or (self._checked and self._cursor.sequence >= sequence)
            )
        if self._failure is not None:
            raise self._failure

    async def run(self) -> None:
        """Copy until cancelled."""
        self._failure = None
        try:
            await self._copy()
        except Exception as error:
            self._failure = error
            await self._move(self._cursor)
            raise

    async def _copy(self) -> None:
        cursor = await self._persist(lambda: self._store.claim(self._stream, self._process))
        await self._move(cursor)
        rows: Rows = TraceRows(self._stream)
        if self._stream == EV:
            rows = EventRows(self._stream, await self._persist(self._store.heads))
        self._rows = rows
        pause = _RETRY_S[0]
        while True:
            began = time.monotonic()
            try:
                await self._follow(rows)
            except FeedLost as lost:
                pause = _RETRY_S[0] if time.monotonic() - began > _RETRY_S[1] else min(pause * 2, _RETRY_S[1])
                log.info("recorder: %s; trying again in %.2f s", lost, pause)
                await asyncio.sleep(pause)

    async def _follow(self, rows: Rows) -> None:
        """Copy for as long as the feed lasts."""
        self._checked = False
        try:
            await self._check_life()
        except (Refused, Unavailable, TimeoutError) as error:
            raise FeedLost(f"stream {self._stream!r}: {error}") from error
        self._checked = True
        await self._move(self._cursor)
        feed = self._feed = await Feed.open(self._connection, self._stream, self._cursor.sequence + 1)
        try:
            while True:
                linger_s = LINGER_S[self._stream]
                items = await (feed.batch(linger_s) if self._stream == EV else feed.harvest(linger_s))
                if items[0].sequence <= self._cursor.sequence:
                    raise FeedLost(f"stream {self._stream!r} begins again at {items[0].sequence}")
                for part in parts(items):
                    batch = await self._whole(rows.batch(self._cursor, part))
                    await self._advance(batch)
                    rows.keep(batch)
        finally:
            self._feed = None
            await feed.close()

    async def _whole(self, batch: Batch) -> Batch:
        try:
            return await with_blobs(batch, self._blobs)
        except (Refused, Unavailable, TimeoutError) as error:
            raise FeedLost(f"stream {self._stream!r}: a large payload cannot be read: {error}") from error

    async def _check_life(self) -> None:
        """See that the stream still holds what we recorded last; a trace that does not begins a new incarnation."""
        if self._cursor.sequence == 0:
            return
        first, last = await _bounds(self._connection, self._stream)
        if first <= self._cursor.sequence <= last:
            data = await self._held(self._cursor.sequence)
            if data is None or codec.digest(data) == self._cursor.hash:
                return
        elif self._cursor.sequence <= last:
            return  # trimmed: nothing is left to compare with
        if self._stream == EV:
            raise LogDamaged(
                EV,
                self._cursor.sequence,
                f"the stream ends at {last} or holds other bytes there: restore its tail from Postgres",
            )
        common = await self._last_common(first, min(last, self._cursor.sequence))
        log.warning("stream %s lost its messages after %s: a new incarnation begins", self._stream, common)
        data = await self._held(common) if common >= first else None
        digest = codec.digest(data) if data is not None else ""
        await self._advance(Batch(Cursor(self._stream, self._cursor.incarnation + 1, common, digest), {}, {}))

    async def _held(self, sequence: int) -> bytes | None:
        """Read what the stream has at a sequence."""
        item = await on_leader(self._connection, self._stream, {"seq": sequence})
        return None if item is None else item.data

    async def _last_common(self, first: int, last: int) -> int:
        """Return the last sequence at which the stream holds what we recorded; its messages after it are others."""
        low, high = first - 1, last
        oldest = await oldest_sequence(self._store)
        if first <= oldest <= last and await self._same(oldest):
            low = oldest  # and what has expired before it was the same, too
        while low < high:
            middle = (low + high + 1) // 2
            if await self._same(middle):
                low = middle
            else:
                high = middle - 1
        return low

    async def _same(self, sequence: int) -> bool:
        held = await self._held(sequence)
        # what was erased is not there any more, and says nothing
        return held is None or held == await self._store.trace_message(sequence)

    async def _advance(self, batch: Batch) -> None:
        """Record a batch; done when it is in Postgres."""
        await self._persist(lambda: self._write(batch))
        await self._move(batch.cursor)

    async def _write(self, batch: Batch) -> None:
        try:
            for table in EXPIRING:
                rows = batch.tables.get(table, ())
                await self._partitions.make_for(table, rows, COLUMNS[table].index("time"))
            await self._store.advance(self._cursor, batch, self._process)
        except Unavailable:
            self._partitions.forget()
            raise

    async def _move(self, cursor: Cursor) -> None:
        async with self._moved:
            self._cursor = cursor
            self._moved.notify_all()

    async def _persist(self, action: Callable[[], Awaitable[T]]) -> T:
        """Do something with Postgres, again and again while it is away."""
        pause, longest = _RETRY_S
        while True:
            try:
                return await action()
            except Unavailable as error:
                log.warning("recorder: %s; trying again in %.2f s", error, pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, longest)


async def _bounds(connection: Connection, stream: str) -> tuple[int, int]:
    state = (await connection.api(f"STREAM.INFO.{stream}", timeout_s=2))["state"]
    return int(state["first_seq"]), int(state["last_seq"])
