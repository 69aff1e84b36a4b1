"""Commands of a shard: pulled, acknowledged after their events are committed, or put among the dead."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from bus import subjects
from bus.admission import explained
from bus.connection import Connection, accepted
from bus.dead import command_id, dead_command, keep
from bus.errors import BadSubject, BusError, Refused, Unavailable
from bus.streams import CMD
from schemas import codec
from schemas.commands import Command
from schemas.context import REQUEST
from schemas.errors import BadShape
from schemas.live import Outcome
from schemas.runs import Problem

log = logging.getLogger(__name__)

TRACEPARENT = "traceparent"
"""W3C Trace Context, as a header and as an attribute of CloudEvents."""
ACK_WAIT_S = 2
"""How long a command that a dead owner had in hand waits for the next one; deciding and committing takes far less."""
_BATCH = 64
_PULL_S = 1.0
_LOOK_S = 0.1
"""A server that restarts forgets who was pulling: so long may it take until we pull again."""
_GRACE_S = 0.5
_PAUSE_S = 0.2
_ATTEMPT_S = 1.0
_BIND_S = 2.0
"""A server that ends while it is asked never answers, and the shard waits."""
_NOTHING_CAME = frozenset({"404", "408"})


class Delivery:
    """One command in hand."""

    def __init__(
        self, message: Msg, command: Command, survived: dict[str, int], shred: Callable[[int], Awaitable[None]]
    ) -> None:
        self._shred = shred
        self.message = message
        self.command = command
        self._survived = survived
        self._key = f"{command.tenant}/{command.thread}/{command.id}"

    @property
    def attempt(self) -> int:
        """1 for the first delivery: a command that comes again and again may be what ends its owners.

        Deliveries that this process outlived do not count.
        """
        return self.message.metadata.num_delivered - self._survived.get(self._key, 0)

    def outlived(self) -> None:
        """Note that it came to nothing here, and that it was not its fault."""
        self._survived[self._key] = self._survived.get(self._key, 0) + 1

    async def later(self, seconds: float) -> None:
        """Have it delivered again after so many seconds: it is not its fault."""
        self.outlived()
        try:
            await self.message.nak(delay=seconds)
        except NatsError as error:
            log.warning("putting command %s off: %s", self.command.id, error)

    @property
    def open(self) -> bool:
        """Whether the server still waits for a word about it."""
        return not self.message.is_acked

    async def ack(self) -> None:
        """Its events are committed: do not deliver it again."""
        self._survived.pop(self._key, None)
        try:
            await self._shred(self.message.metadata.sequence.stream)
            await self.message.ack()
        except (NatsError, Unavailable) as error:
            # it will come again, and be found answered
            log.warning("acknowledging command %s: %s", self.command.id, error)


class CommandQueue:
    """Pulls one shard's commands, in order of arrival."""

    def __init__(
        self, connection: Connection, shard: int, process: str, survived: dict[str, int] | None = None
    ) -> None:
        """Make the queue.

        Args:
            connection: to NATS.
            shard: whose commands.
            process: who pulls, for the record.
            survived: how many deliveries of each command this process outlived; shared by its queues.
        """
        self._survived = {} if survived is None else survived
        self._connection = connection
        self._shard = shard
        self._process = process
        self._in_hand: list[Delivery] = []
        self._stopped = False

    @property
    def in_hand(self) -> int:
        """How many commands were delivered and are not answered."""
        return sum(delivery.open for delivery in self._in_hand)

    def stop(self) -> None:
        """Pull no more: `deliveries` ends soon."""
        self._stopped = True

    async def deliveries(self) -> AsyncIterator[Delivery]:
        """Yield commands until stopped. What cannot be decoded goes to `dead.` and its sender is told."""
        await self._bind()
        client = self._connection.client
        heard: asyncio.Queue[Msg] = asyncio.Queue()
        inbox = client.new_inbox()

        async def hear(message: Msg) -> None:
            heard.put_nowait(message)

        self._in_hand = []

        try:
            subscription = await client.subscribe(inbox, cb=hear)
        except NatsError as error:
            raise Unavailable(f"cannot pull the commands of shard {self._shard}: {error}") from error
        try:
            while not self._stopped:
                await self._ask_for_more(inbox)
                async for message in self._batch(heard):
                    delivery = await self._read(message)
                    if delivery is not None:
                        self._in_hand = [*(other for other in self._in_hand if other.open), delivery]
                        yield delivery
        finally:
            with contextlib.suppress(NatsError):
                # the server drops the pull under way with it: else the next commands would be sent to nobody
                await subscription.unsubscribe()
                for delivery in self._in_hand:
                    if delivery.open and not self._stopped:
                        delivery.outlived()
                        await delivery.message.nak()  # for the next owner, at once

    async def _batch(self, heard: asyncio.Queue[Msg]) -> AsyncIterator[Msg]:
        """Yield what one pull brings, until the server says that it is over, or says nothing for too long."""
        for _ in range(_BATCH):
            message = await self._next(heard)
            if message is None:
                return
            status = (message.headers or {}).get("Status")
            if status is None:
                yield message
                continue
            if status not in _NOTHING_CAME:
                log.warning("pulling commands: %s %s", status, (message.headers or {}).get("Description", ""))
                await asyncio.sleep(_PAUSE_S)
            return

    async def _next(self, heard: asyncio.Queue[Msg]) -> Msg | None:
        """Wait for a message; None after too long a silence, or on another connection than we asked on."""
        client = self._connection.client
        reconnects, end = client.stats["reconnects"], time.monotonic() + _PULL_S + _GRACE_S
        while time.monotonic() < end and client.stats["reconnects"] == reconnects and not self._stopped:
            try:
                async with asyncio.timeout(_LOOK_S):
                    return await heard.get()
            except TimeoutError:
                continue
        return None

    async def _ask_for_more(self, inbox: str) -> None:
        ask = msgspec.json.encode({"batch": _BATCH, "expires": int(_PULL_S * 1_000_000_000)})
        try:
            await self._connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.{CMD}.{self._consumer}", ask, reply=inbox)
        except BusError as error:
            log.warning("pulling commands of shard %s: %s", self._shard, error)
            await asyncio.sleep(_PAUSE_S)

    @property
    def _consumer(self) -> str:
        return f"shard-{self._shard}"

    async def _bind(self) -> None:
        """Make the shard's consumer, or find it."""
        config: dict[str, Any] = {
            "durable_name": self._consumer,
            "name": self._consumer,
            "filter_subject": subjects.shard_commands(self._shard),
            "ack_policy": "explicit",
            "ack_wait": ACK_WAIT_S * 1_000_000_000,
            "max_deliver": -1,  # at a limit JetStream falls silent: the owner counts, and buries
            "max_ack_pending": 1024,
        }
        await self._connection.api(
            f"CONSUMER.CREATE.{CMD}.{self._consumer}.{subjects.shard_commands(self._shard)}",
            {"stream_name": CMD, "config": config},
            _BIND_S,
        )

    async def _read(self, message: Msg) -> Delivery | None:
        try:
            where = subjects.parse_command(message.subject)
            command = codec.decode_command(where.tenant, where.kind, where.thread, where.verb, message.data)
            command = _traced(command, message.headers or {})
            subjects.checked(command.id, "command id")
            subjects.checked(where.thread, "thread")
            subjects.checked(where.tenant, "tenant")
        except (BadSubject, BadShape) as error:
            await self.bury(message, str(error))
            return None
        return Delivery(message, command, self._survived, self._shred)

    async def _shred(self, sequence: int) -> None:
        """Have a command that is answered written over on the disk, where what people say is sealed.

        Acknowledging alone leaves its bytes in their file until that is cleared up.
        """
        if self._connection.keys is not None:
            body = msgspec.json.encode({"seq": sequence})
            await self._connection.publish(f"$JS.API.STREAM.MSG.DELETE.{CMD}", body)

    async def bury(self, message: Msg, error: str, told: str = "") -> None:
        """Keep a command nobody can handle, then stop its delivery; tell the sender if it gave an id.

        Never raises: a command that cannot even be buried is delivered again later, and its neighbours go on.

        Args:
            message: the command.
            error: why, for the letter and its sender.
            told: why, for the log of this process, which may hold nothing of what was said.
        """
        try:
            await self._keep(message, error)
            await message.term()
            log.warning("command on %s is dead: %s", message.subject, told or "its letter says why")
            await self._tell(message, error)
        except (BusError, TimeoutError, NatsError) as trouble:
            log.warning("burying the command on %s: %s", message.subject, trouble)

    async def _keep(self, message: Msg, error: str) -> None:
        parts = message.subject.split(".")
        kind = parts[3] if len(parts) > 3 else "unknown"
        found = message.metadata
        dead = dead_command(message.subject, message.data, error, found.num_delivered, self._process)
        # by its sender's id, if it has one: a server that restarts forgets those of what it keeps no more, and takes a
        # repetition for another message
        sent_as = (message.headers or {}).get("Nats-Msg-Id")
        identity = f"dead-{found.sequence.stream}" if sent_as is None else f"dead-as-{sent_as}"
        await keep(self._connection, self._shard, kind, dead, identity)

    async def _tell(self, message: Msg, error: str) -> None:
        parts = message.subject.split(".")
        try:
            identity = subjects.checked(command_id(message.data) or "", "command id")
            tenant = subjects.checked(parts[2], "tenant")
        except (BadSubject, IndexError):
            return
        outcome = Outcome(
            command=identity, result="dead", thread=parts[4], problem=Problem(kind="invalid", message=error)
        )
        await self._connection.publish(subjects.live(tenant, "command", identity), codec.encode(outcome))


def _traced(command: Command, headers: Mapping[str, str]) -> Command:
    """Take the trace from the message's header, as tracers write it there, where the body names none."""
    given = headers.get(TRACEPARENT, "")
    return msgspec.structs.replace(command, traceparent=given) if given and not command.traceparent else command


async def send_command(connection: Connection, command: Command, timeout_s: float = 10.0) -> None:
    """Publish a command on its `in.` subject; it is durable when this returns. Safe to repeat with the same id.

    Raises:
        Refused: the command stream is full or says no.
        Unavailable: no JetStream.
        TimeoutError: no acknowledgement.
    """
    body = {
        "specversion": "1.0",
        "id": command.id,
        "source": command.source,
        "type": f"{command.kind}.{command.verb}",
        "subject": command.thread,
        "time": command.time,
        "traceparent": command.traceparent,
        "requestid": command.request_id or REQUEST.get(),
        "data": command.data,
    }
    subject = subjects.command(command.tenant, command.kind, command.thread, command.verb)
    headers = {"Nats-Msg-Id": f"{command.tenant}.{command.id}"}
    if command.traceparent:
        headers[TRACEPARENT] = command.traceparent
    data, end = codec.encode(body), time.monotonic() + timeout_s
    while True:
        try:
            accepted(await connection.request(subject, data, min(_ATTEMPT_S, timeout_s), headers))
        except Refused as refusal:
            raise await explained(connection, refusal) from refusal
        except (Unavailable, TimeoutError):
            # a cluster that has lost a server takes seconds to choose who leads the stream; sending again is safe
            if time.monotonic() + _PAUSE_S >= end or connection.client.is_closed:
                raise
            await asyncio.sleep(_PAUSE_S)
        else:
            return
