"""A stream's messages in order, pulled without acknowledgements from a given sequence on.

Whoever reads keeps the position; the consumer on the server is thrown away at the first doubt (`FeedLost`) and made
again. It lives in the server's memory, so that a restarted server cannot go on with one that remembers a stream
longer than the disk gave back.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from bus.connection import Connection
from bus.errors import BusError, Refused, Unavailable

BATCH = 2000
BATCH_BYTES = 16 * 2**20
_EXPIRES_S = 20.0
_AT_ONCE_S = 0.01
"""How long a pull lasts that wants what is there: the server needs some of it to send that."""
_HEARTBEAT_S = 1
_SILENCE_S = 2.5
_INACTIVE_S = 300
_ENDED = {"404", "408", "409"}
"""Statuses with which the server ends a pull; more can be asked for."""


class FeedLost(BusError):
    """The consumer is gone, or the server is silent: open the feed again."""


class Item(NamedTuple):
    """One message of a stream."""

    sequence: int
    subject: str
    time: int
    """When the server stored it, microseconds since the Unix epoch."""
    data: bytes


class Feed:
    """One reader's pull consumer. Made by `open`, closed by its reader.

    What it brings has no gaps, because messages under way in a connection that breaks are not sent again: at a gap
    the feed is lost. Only where one begins may messages be missing, and those are missing in the stream.
    """

    def __init__(self, connection: Connection, stream: str, consumer: str) -> None:
        self._connection = connection
        self._stream = stream
        self._consumer = consumer
        self._inbox = connection.client.new_inbox()
        self._subscription: Subscription | None = None
        self._items: list[Item] = []
        self._wanted = 0
        """How many messages the pull under way may still bring."""
        self._bytes = 0
        self._last: int | None = None
        self._pending = 0
        self._lost: str | None = None
        self._news = asyncio.Event()
        self._filling = False
        """Whether there is a message already, and others may join it."""
        self._reconnects = connection.client.stats["reconnects"]

    @classmethod
    async def open(cls, connection: Connection, stream: str, first: int) -> Feed:
        """Begin at sequence `first`, or at the stream's first later one.

        Raises:
            FeedLost: the server or the stream is not there now.
        """
        config = {
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": first,
            "inactive_threshold": _INACTIVE_S * 1_000_000_000,
            "mem_storage": True,
            "num_replicas": 1,
        }
        try:
            answer = await connection.api(
                f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config}, timeout_s=2
            )
            feed = cls(connection, stream, answer["name"])
            feed._subscription = await connection.client.subscribe(feed._inbox, cb=feed._heard)
        except (Refused, Unavailable, TimeoutError, NatsError) as error:
            raise FeedLost(f"cannot read stream {stream!r}: {error}") from error
        return feed

    async def close(self) -> None:
        """Stop reading; the server forgets the consumer by itself if it cannot be told."""
        self._lost = self._lost or "closed"
        with contextlib.suppress(BusError, TimeoutError, NatsError):
            if self._subscription is not None:
                await self._subscription.unsubscribe()
            await self._connection.api(f"CONSUMER.DELETE.{self._stream}.{self._consumer}", timeout_s=0.5)

    @property
    def behind(self) -> int:
        """How many messages the stream held beyond those that were taken, when the last one came."""
        return self._pending + len(self._items)

    def wake(self) -> None:
        """Look around: the connection may be another one."""
        self._news.set()

    async def batch(self, linger_s: float) -> list[Item]:
        """Wait for a message and return it with those that follow within `linger_s`, up to a batch.

        Raises:
            FeedLost: the server is silent or has lost the consumer.
        """
        while not self._items:
            await self._more(BATCH)
        await self._filled_within(linger_s)
        items = self._taken()
        await self._pull(BATCH)
        return items

    async def harvest(self, rest_s: float) -> list[Item]:
        """Wait for a message, then let others gather on the server for `rest_s`, and return all of them at once, up to
        a batch. Nobody is woken for each: messages that come one by one cost several times as much.

        Raises:
            FeedLost: the server is silent or has lost the consumer.
        """
        while not self._items:
            await self._more(1)
        behind = self._pending >= BATCH
        if not behind:
            await asyncio.sleep(rest_s)
        if not self._full:
            await self._pull(BATCH - len(self._items), _EXPIRES_S if behind else _AT_ONCE_S)
            while self._wanted > 0 and self._lost is None and not self._full:
                if not await self._heard_within(_SILENCE_S):
                    break
        return self._taken()

    def _taken(self) -> list[Item]:
        items, self._items, self._bytes = self._items, [], 0
        return items

    async def _more(self, wanted: int) -> None:
        await self._pull(wanted)
        if not await self._heard_within(_SILENCE_S):
            raise FeedLost(f"stream {self._stream!r}: nothing heard for {_SILENCE_S} s")

    async def _filled_within(self, seconds: float) -> bool:
        """Wait until there is a batch; waking for each of its messages would cost more than taking it in."""
        self._filling = True
        end = asyncio.get_running_loop().time() + seconds
        try:
            while not self._full:
                left = end - asyncio.get_running_loop().time()
                if left <= 0 or not await self._heard_within(left):
                    return self._full
        finally:
            self._filling = False
        return True

    @property
    def _full(self) -> bool:
        return len(self._items) >= BATCH or self._bytes >= BATCH_BYTES

    async def _heard_within(self, seconds: float) -> bool:
        self._news.clear()
        self._check()
        try:
            # not `wait_for`: up to Python 3.11 it forgets a cancellation that meets its result
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        self._check()
        return True

    def _check(self) -> None:
        if self._connection.client.stats["reconnects"] != self._reconnects:
            self._lost = "the connection was broken"
        if self._lost is not None and not self._items:
            raise FeedLost(f"stream {self._stream!r}: {self._lost}")

    async def _pull(self, wanted: int, expires_s: float = _EXPIRES_S) -> None:
        """Ask for so many messages, as far as they come before that expires, unless some are still on their way."""
        if self._wanted > 0:
            return
        self._check()
        self._wanted = wanted
        body = {"batch": wanted, "max_bytes": BATCH_BYTES, "expires": round(expires_s * 1e9)}
        if expires_s > 2 * _HEARTBEAT_S:
            body["idle_heartbeat"] = _HEARTBEAT_S * 1_000_000_000
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        try:
            await self._connection.publish(subject, msgspec.json.encode(body), reply=self._inbox)
        except BusError as error:
            raise FeedLost(f"stream {self._stream!r}: {error}") from error

    async def _heard(self, message: Msg) -> None:
        if self._lost is None:
            self._take(message)
        if not self._filling or self._full or self._lost is not None:
            self._news.set()

    def _take(self, message: Msg) -> None:
        parts = message.reply.split(".")
        if self._connection.client.stats["reconnects"] != self._reconnects:
            # what was on its way in the old connection is lost, and this may be what came after it
            self._lost = "the connection was broken"
        elif len(parts) >= 9 and parts[1] == "ACK":
            # $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<consumer sequence>.<nanoseconds>.<pending>,
            # with a domain and an account before the stream, and more after, where there are domains
            at = 5 if len(parts) == 9 else 7
            self._pending = int(parts[at + 3])
            self._add(Item(int(parts[at]), message.subject, int(parts[at + 2]) // 1000, message.data))
        else:
            headers = message.headers or {}
            status, description = headers.get("Status", ""), headers.get("Description", "")
            if status in _ENDED and "Deleted" not in description:
                self._wanted = 0
            elif status != "100":
                self._lost = f"the server says {status} {description}"

    def _add(self, item: Item) -> None:
        if self._last is not None and item.sequence != self._last + 1:
            self._lost = f"after {self._last} came {item.sequence}"
            return
        self._last = item.sequence
        self._items.append(item)
        self._bytes += len(item.data)
        self._wanted -= 1
