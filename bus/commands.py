"""Commands of a shard: pulled, acknowledged after their events are committed, or put among the dead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeout
from nats.js.client import JetStreamContext

from bus import subjects
from bus.connection import Connection
from bus.errors import BadSubject, Refused
from bus.streams import CMD
from schemas import codec
from schemas.commands import Command
from schemas.errors import BadShape
from schemas.live import Outcome
from schemas.runs import Problem
from schemas.wire import Wire

log = logging.getLogger(__name__)

ACK_WAIT_S = 30
MAX_DELIVERIES = 5
_FETCH_S = 5.0


class DeadCommand(Wire, frozen=True):
    """What is kept of a command that nobody could handle."""

    subject: str
    body: str
    error: str
    deliveries: int
    process: str


class Delivery:
    """One command in hand."""

    def __init__(self, message: Msg, command: Command) -> None:
        self.message = message
        self.command = command

    async def ack(self) -> None:
        """Its events are committed: do not deliver it again."""
        await self.message.ack()

    async def in_progress(self) -> None:
        """Still at it: start the acknowledgement wait anew."""
        await self.message.in_progress()


class CommandQueue:
    """Pulls one shard's commands, in order of arrival."""

    def __init__(self, connection: Connection, shard: int, process: str) -> None:
        self._connection = connection
        self._shard = shard
        self._process = process

    async def deliveries(self) -> AsyncIterator[Delivery]:
        """Yield commands for ever. What cannot be decoded goes to `dead.` and its sender is told."""
        subscription = await self._bind()
        while True:
            try:
                messages = await subscription.fetch(64, timeout=_FETCH_S)
            except (NatsTimeout, TimeoutError):
                continue
            except NatsError as error:
                log.warning("pulling commands of shard %s: %s", self._shard, error)
                await asyncio.sleep(0.2)
                continue
            for message in messages:
                delivery = await self._read(message)
                if delivery is not None:
                    yield delivery

    async def _bind(self) -> JetStreamContext.PullSubscription:
        name = f"shard-{self._shard}"
        config: dict[str, Any] = {
            "durable_name": name,
            "filter_subject": subjects.shard_commands(self._shard),
            "ack_policy": "explicit",
            "ack_wait": ACK_WAIT_S * 1_000_000_000,
            "max_deliver": MAX_DELIVERIES,
            "max_ack_pending": 1024,
        }
        await self._connection.api(
            f"CONSUMER.CREATE.{CMD}.{name}.{subjects.shard_commands(self._shard)}",
            {"stream_name": CMD, "config": {**config, "name": name}},
        )
        return await self._connection.client.jetstream().pull_subscribe_bind(consumer=name, stream=CMD)

    async def _read(self, message: Msg) -> Delivery | None:
        try:
            where = subjects.parse_command(message.subject)
            command = codec.decode_command(where.tenant, where.kind, where.thread, where.verb, message.data)
            subjects.checked(command.id, "command id")
            subjects.checked(where.thread, "thread")
        except (BadSubject, BadShape) as error:
            await self.bury(message, str(error))
            return None
        return Delivery(message, command)

    async def bury(self, message: Msg, error: str) -> None:
        """Keep a command nobody can handle, then stop its delivery; tell the sender if it gave an id."""
        parts = message.subject.split(".")
        kind = parts[3] if len(parts) > 3 else "unknown"
        dead = DeadCommand(
            subject=message.subject,
            body=message.data.decode("utf-8", "replace"),
            error=error,
            deliveries=message.metadata.num_delivered,
            process=self._process,
        )
        await self._connection.request(subjects.dead(self._shard, kind), codec.encode(dead), 5.0)
        await message.term()
        log.warning("command on %s is dead: %s", message.subject, error)
        try:
            known = msgspec.json.decode(message.data)
            command_id = subjects.checked(str(known["id"]), "command id")
            tenant = subjects.checked(parts[2], "tenant")
        except (msgspec.DecodeError, BadSubject, KeyError, TypeError, IndexError):
            return
        outcome = Outcome(
            command=command_id, result="dead", thread=parts[4], problem=Problem(kind="invalid", message=error)
        )
        await self._connection.publish(subjects.live(tenant, "command", command_id), codec.encode(outcome))


async def send_command(connection: Connection, command: Command, timeout_s: float = 5.0) -> None:
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
        "data": command.data,
    }
    subject = subjects.command(command.tenant, command.kind, command.thread, command.verb)
    headers = {"Nats-Msg-Id": f"{command.tenant}-{command.id}"}
    reply = await connection.request(subject, codec.encode(body), timeout_s, headers)
    answer = msgspec.json.decode(reply.data)
    problem = answer.get("error")
    if problem is not None:
        raise Refused(int(problem.get("err_code", 0)), str(problem.get("description")))
