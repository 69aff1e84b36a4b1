"""Fast ingest: records into a stream as fast as the server takes them, in order, and known to be stored.

A reply subject carries each record's number in its batch; the server acknowledges every so many and says how many
that is. So a server that is slow slows who sends; with plain publishes it drops what it has no room for, without a
word. Protocol: NATS ADR-50, nats-server 2.14.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from bus.connection import Connection
from bus.errors import BusError, IngestLost, Unavailable

FLOW = 500
"""Most records between two acknowledgements; the server may give them more often."""
OUTSTANDING = 2
"""Acknowledgements that may be on their way: one while the next records are sent."""
_ANSWER_S = 2.0
_BEGIN, _APPEND, _END = 0, 1, 3

Record = tuple[str, bytes]
"""Subject and data."""


class Word(msgspec.Struct):
    """What the server says on a batch: `ack`, `gap` or `err`, and without a type how the batch ended."""

    type: str = ""
    seq: int = 0
    msgs: int = 1
    error: dict[str, Any] | None = None


@dataclass(slots=True)
class Batch:
    """The batch under way."""

    name: str
    life: int
    """How often the connection had been made again when it began."""
    subject: str = ""
    """Of the last record: its end needs one."""
    sent: int = 0
    confirmed: int = 0
    flow: int = 0
    """Records between two acknowledgements, as the server has it; 0 until it has said something."""
    ended: bool = False
    failure: str | None = None

    @property
    def has_room(self) -> bool:
        """Whether a further record may be sent."""
        return self.sent < self.confirmed + self.flow * OUTSTANDING

    def hear(self, word: Word) -> None:
        """Take in what the server says."""
        match word.type:
            case "ack":
                self.confirmed, self.flow = max(self.confirmed, word.seq), word.msgs
            case "gap":
                self.failure = self.failure or f"records before number {word.seq} of the batch did not arrive"
            case _ if word.error is not None:
                self.failure = self.failure or str(word.error.get("description", word.error))
            case _:
                self.ended = True


class Ingest:
    """Sends records to one stream, a batch at a time. Made by `open`, closed by who sends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox = connection.client.new_inbox()
        self._subscription: Subscription | None = None
        self._names = itertools.count(1)
        self._batch: Batch | None = None
        self._unconfirmed: deque[Record] = deque()
        self._heard = asyncio.Event()

    @classmethod
    async def open(cls, connection: Connection) -> Ingest:
        """Listen for what the server will say.

        Raises:
            Unavailable: the connection is closed.
        """
        ingest = cls(connection)
        try:
            ingest._subscription = await connection.client.subscribe(f"{ingest._inbox}.>", cb=ingest._hear)
        except NatsError as error:
            raise Unavailable(f"cannot hear acknowledgements: {error}") from error
        return ingest

    async def close(self) -> None:
        """Stop listening."""
        if self._subscription is not None and not self._connection.client.is_closed:
            await self._subscription.unsubscribe()

    async def send(self, subject: str, data: bytes) -> list[Record]:
        """Send a record as soon as the server has room for it.

        Returns:
            What has become known to be stored since the last call, in order.

        Raises:
            IngestLost: the server is not there, or takes no batches; `give_up` returns what may be sent again.
        """
        self._unconfirmed.append((subject, data))
        batch = self._batch
        if batch is None:
            batch = self._batch = Batch(f"b{next(self._names)}", self._life)
        else:
            await self._until(batch, lambda: batch.has_room)
        batch.subject = subject
        await self._publish(batch, data, _BEGIN if batch.sent == 0 else _APPEND)
        if batch.sent == 1:
            await self._until(batch, lambda: batch.flow > 0)
        return self._all_but(batch.sent - batch.confirmed)

    async def end(self) -> list[Record]:
        """End the batch, and return what was not known to be stored before: all of it is.

        Raises:
            IngestLost: the server does not say so.
        """
        batch = self._batch
        if batch is not None:
            await self._publish(batch, b"", _END)
            await self._until(batch, lambda: batch.ended)
            self._batch = None
        return self._all_but(0)

    def give_up(self) -> list[Record]:
        """Forget the batch, and return what is not known to be stored, in order."""
        self._batch = None
        return self._all_but(0)

    @property
    def _life(self) -> int:
        return int(self._connection.client.stats["reconnects"])

    def _all_but(self, left: int) -> list[Record]:
        """Take out what was sent, but for the last `left` records."""
        return [self._unconfirmed.popleft() for _ in range(len(self._unconfirmed) - left)]

    async def _publish(self, batch: Batch, data: bytes, operation: int) -> None:
        batch.sent += 1
        reply = f"{self._inbox}.{batch.name}.{FLOW}.fail.{batch.sent}.{operation}.$FI"
        try:
            await self._connection.publish(batch.subject, data, reply=reply)
        except BusError as error:
            raise IngestLost(str(error)) from error

    async def _until(self, batch: Batch, fits: Callable[[], bool]) -> None:
        """Wait for the server to say what is waited for."""
        while True:
            if batch.failure is not None:
                raise IngestLost(batch.failure)
            if batch.life != self._life:
                raise IngestLost("the connection was broken")
            if fits():
                return
            self._heard.clear()
            try:
                async with asyncio.timeout(_ANSWER_S):
                    await self._heard.wait()
            except TimeoutError as error:
                raise IngestLost(f"no acknowledgement within {_ANSWER_S:.0f} s") from error

    async def _hear(self, message: Msg) -> None:
        batch = self._batch
        if batch is None or message.subject.removeprefix(f"{self._inbox}.").partition(".")[0] != batch.name:
            return
        try:
            batch.hear(msgspec.json.decode(message.data, type=Word))
        except msgspec.DecodeError:
            # a status without a body: no stream has the subject
            batch.failure = f"no stream takes {batch.subject!r}"
        self._heard.set()
