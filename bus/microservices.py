"""Services of others: what they say of themselves, and requests to them, by the NATS micro-service protocol (ADR-32).

A service answers `$SRV.INFO.<name>`; one that cannot do what it is asked says so in the headers of its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from nats.errors import Error as NatsError

from bus.connection import Connection, Message

log = logging.getLogger(__name__)

_MOST_NAMED = 10_000
"""Messages of one call whose ids are known: of more, one that comes again is heard again."""
_MOST_WAITS = 1000
"""How often what has come is given time to be heard: whoever tells without end is not heard to it."""
_ERROR = "Nats-Service-Error"
_ERROR_CODE = "Nats-Service-Error-Code"


class Endpoint(msgspec.Struct, frozen=True):
    """One thing that a service does."""

    name: str = ""
    subject: str = ""
    metadata: Mapping[str, str] | None = None


class Info(msgspec.Struct, frozen=True):
    """What a service says of itself."""

    name: str
    id: str = ""
    version: str = ""
    description: str = ""
    metadata: Mapping[str, str] | None = None
    endpoints: tuple[Endpoint, ...] = ()


class ServiceError(Exception):
    """A service answered that it cannot."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(f"{description} (code {code})" if code else description)
        self.code = code
        self.description = description


async def info_of(connection: Connection, name: str, timeout_s: float = 2.0) -> Info:
    """Ask whichever instance of a service answers first.

    Raises:
        Unavailable: none does.
        TimeoutError: none did in time.
        ValueError: what answered is no service's information.
    """
    reply = await connection.request(f"$SRV.INFO.{name}", b"", timeout_s)
    try:
        return msgspec.json.decode(reply.data, type=Info)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"service {name!r} says nothing of itself that can be read: {error}") from error


async def names_of_services(connection: Connection, prefix: str, wait_s: float) -> list[str]:
    """Name the services that answer within a time and whose names begin so.

    Raises:
        Unavailable: the connection is closed.
    """
    found: set[str] = set()

    async def hear(message: Message) -> None:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            name = msgspec.json.decode(message.data, type=Info).name
            if name.startswith(prefix):
                found.add(name)

    inbox = connection.client.new_inbox()
    subscription = await connection.subscribe(inbox, hear)
    try:
        await connection.publish("$SRV.PING", b"", reply=inbox)
        await asyncio.sleep(wait_s)
    finally:
        await subscription.unsubscribe()
    return sorted(found)


async def ask(
    connection: Connection, subject: str, data: bytes, headers: Mapping[str, str], timeout_s: float
) -> Message:
    """Have a service do something.

    Raises:
        ServiceError: it says that it cannot.
        Unavailable: nobody serves that.
        Refused: the data is larger than NATS takes.
        TimeoutError: it did not answer in time; what became of it is not known.
    """
    reply = await connection.request(subject, data, timeout_s, dict(headers))
    error = reply.headers.get(_ERROR)
    if error is not None or _ERROR_CODE in reply.headers:
        raise ServiceError(reply.headers.get(_ERROR_CODE, ""), error or "error")
    return reply


@asynccontextmanager
async def hearing(connection: Connection, report: Callable[[Any], None]) -> AsyncIterator[str]:
    """Hear JSON on a subject of its own, which is given, for as long as the block runs; after it nobody listens there.

    A message that comes again with the same `Nats-Msg-Id` is heard once, one that is no JSON is not heard.

    Raises:
        Unavailable: the connection is closed.
    """
    inbox, named = connection.client.new_inbox(), set[str]()

    async def hear(message: Message) -> None:
        identity = message.headers.get("Nats-Msg-Id", "")
        if identity in named:
            return
        if identity and len(named) < _MOST_NAMED:
            named.add(identity)
        try:
            report(msgspec.json.decode(message.data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.debug("what a service tells of itself is no JSON: %s", error)

    subscription = await connection.subscribe(inbox, hear)
    try:
        yield inbox
        for _ in range(_MOST_WAITS):
            if not subscription.pending_msgs:
                break
            await asyncio.sleep(0)  # what came before the answer is heard before it
    finally:
        with contextlib.suppress(NatsError):
            await subscription.unsubscribe()
