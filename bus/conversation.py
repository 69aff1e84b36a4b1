"""A request that is answered by many messages, and the NATS service that gives them."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from nats.errors import Error as NatsError
from nats.micro import add_service
from nats.micro.request import Request

from bus.connection import Connection, Message
from bus.errors import BusError, Unavailable

log = logging.getLogger(__name__)

_ERROR = "Nats-Service-Error"
_ANSWERING: set[asyncio.Task[None]] = set()
"""Conversations under way: a task that nobody holds may be collected before it has ended."""
_SEMVER = re.compile(r"\d+\.\d+\.\d+")

Send = Callable[[bytes], Awaitable[None]]
Answer = Callable[[bytes, Send], Awaitable[None]]
"""Takes a request and sends any number of messages."""


class Replies:
    """What comes back, in order."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._heard: asyncio.Queue[Message] = asyncio.Queue()

    async def take(self, message: Message) -> None:
        """Take a message."""
        self._heard.put_nowait(message)

    async def next(self, silence_s: float) -> bytes:
        """Give the next one.

        Raises:
            Unavailable: nobody offers the service.
            TimeoutError: nothing came for so long.
        """
        async with asyncio.timeout(silence_s):
            message = await self._heard.get()
        if message.headers.get("Status") == "503":
            raise Unavailable(f"nobody answers on {self._subject!r}")
        if _ERROR in message.headers:
            raise Unavailable(f"the service on {self._subject!r} says: {message.headers[_ERROR]}")
        return message.data


@asynccontextmanager
async def asked(connection: Connection, subject: str, data: bytes) -> AsyncIterator[Replies]:
    """Ask, and listen until the block ends.

    Raises:
        Unavailable: the connection is closed.
        Refused: the data is larger than the server takes.
    """
    inbox, replies = connection.client.new_inbox(), Replies(subject)
    subscription = await connection.subscribe(inbox, replies.take)
    try:
        await connection.publish(subject, data, reply=inbox)
        yield replies
    finally:
        try:
            await subscription.unsubscribe()
        except NatsError as error:
            log.debug("an inbox is left to the server: %s", error)


async def offer(
    connection: Connection, name: str, version: str, subject: str, metadata: dict[str, str], answer: Answer
) -> None:
    """Answer requests for as long as the connection is, several at once; `nats micro ls` shows the service.

    Args:
        connection: to NATS.
        name: of the service.
        version: of the code.
        subject: where it is asked.
        metadata: told to whoever looks for services.
        answer: gives the messages; what it raises ends the conversation without a last one.

    Raises:
        Unavailable: the connection is closed.
    """

    async def converse(request: Request) -> None:
        try:
            await answer(request.data, request.respond)
        except (BusError, NatsError) as error:
            log.warning("service %s: %s", name, error)

    async def begin(request: Request) -> None:
        task = asyncio.create_task(converse(request))
        _ANSWERING.add(task)
        task.add_done_callback(_ANSWERING.discard)

    found = _SEMVER.match(version)
    try:
        service = await add_service(
            connection.client, name=name, version=found.group() if found else "0.0.0", metadata=metadata
        )
        await service.add_endpoint(name="ask", subject=subject, handler=begin)
    except NatsError as error:
        raise Unavailable(f"cannot offer service {name!r}: {error}") from error
