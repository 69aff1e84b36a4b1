"""One connection to NATS: what the rest of the system may do with it, in our own types and errors."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from bus.address import masked, nats_login, nats_servers
from bus.errors import TOO_LARGE, Refused, Unavailable
from bus.keyring import Keyring

log = logging.getLogger(__name__)

_PING_INTERVAL_S = 2
_RECONNECT_WAIT_S = 0.1
_FLUSH_S = 10.0
_BEHIND_BYTES = 1 << 20
_FLUSH_AGAIN_S = 0.5


class Message(msgspec.Struct, frozen=True):
    """A message as heard."""

    subject: str
    data: bytes
    reply: str = ""
    headers: Mapping[str, str] = {}


T = TypeVar("T")
Handler = Callable[[Message], Awaitable[None]]


class Connection:
    """Reconnects by itself, for ever; what is published meanwhile is sent afterwards."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._reconnected: list[Callable[[], Awaitable[None]]] = []
        self.keys: Keyring | None = None
        """Seals what is written over it, and opens what is read; sealed payloads stay closed without."""

    @classmethod
    async def open(cls, url: str, name: str, wait_s: float = 5.0) -> Self:
        """Connect.

        Args:
            url: `nats://host:port`; may carry credentials, or be several of one cluster, parted by commas.
            name: shown in the server's connection list.
            wait_s: how long to try before giving up, seconds.

        Raises:
            Unavailable: no server answered in time.
        """
        client = Client()
        connection = cls(client)
        try:
            async with asyncio.timeout(wait_s):
                await client.connect(
                    nats_servers(url),
                    **nats_login(url),  # type: ignore[arg-type]  # user, password and token are strings
                    name=name,
                    ping_interval=_PING_INTERVAL_S,
                    max_outstanding_pings=2,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=_RECONNECT_WAIT_S,  # type: ignore[arg-type]  # seconds; fractions work
                    connect_timeout=1,
                    error_cb=_log_error,
                    reconnected_cb=connection._on_reconnect,
                )
        except (TimeoutError, OSError, ValueError, NatsError) as error:
            raise Unavailable(
                f"cannot connect to NATS at {masked(url)}: {str(error) or 'timed out'} (is the server running?)"
            ) from error
        return connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Send what is queued and close; bounded, whatever the server does."""
        if self.client.is_closed:
            return
        try:
            async with asyncio.timeout(2):
                if self.client.is_connected:
                    await self.client.flush(1)
                await self.client.close()
        except (TimeoutError, NatsError, OSError) as error:
            log.debug("closing the NATS connection: %s", error)

    @property
    def server_version(self) -> str:
        """The connected server's version: `major.minor.patch`."""
        version = self.client.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}"

    @property
    def is_behind(self) -> bool:
        """Whether half of what may wait for a slow or lost server waits: the rest is for what must not be lost."""
        return self.client.pending_data_size > _BEHIND_BYTES

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Call back after each reconnection: what was core-published meanwhile was not heard."""
        self._reconnected.append(callback)

    async def _on_reconnect(self) -> None:
        log.info("reconnected to NATS")
        for callback in self._reconnected:
            await callback()

    async def publish(self, subject: str, data: bytes, headers: dict[str, str] | None = None, reply: str = "") -> None:
        """Send without waiting for anyone; answers, if any are asked for, come to `reply`.

        Raises:
            Unavailable: the connection is closed, or too much waits for a lost server.
            Refused: the data is larger than the server takes.
        """
        try:
            await _heeding_cancellation(self.client.publish(subject, data, reply, headers))
        except MaxPayloadError as error:
            raise self._too_large(subject, len(data)) from error
        except NatsError as error:
            raise Unavailable(f"cannot publish to {subject!r}: {error}") from error

    async def flush(self) -> None:
        """Wait until the server has taken all that was sent and subscribed to before.

        A server that ends while it is asked never answers, so its successor is asked again. An attempt is not broken
        off: nats-py stops reading when the answer to a flush comes that nobody waits for.

        Raises:
            Unavailable: it does not answer.
        """
        end = time.monotonic() + _FLUSH_S
        while True:
            attempt = asyncio.create_task(self.client.flush())
            attempt.add_done_callback(_look_at)
            await asyncio.wait({attempt}, timeout=_FLUSH_AGAIN_S)
            error = attempt.exception() if attempt.done() else TimeoutError(f"no answer within {_FLUSH_S:.0f} s")
            if error is None:
                return
            if not isinstance(error, NatsError | TimeoutError):
                raise error
            if attempt.done() or time.monotonic() >= end:
                raise Unavailable(f"NATS does not answer: {str(error) or type(error).__name__}") from error

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Subscription:
        """Call `handler` for each message, one after the other.

        Raises:
            Unavailable: the connection is closed.
        """

        async def heard(message: Msg) -> None:
            await handler(Message(message.subject, message.data, message.reply, message.headers or {}))

        try:
            return await self.client.subscribe(subject, queue=queue, cb=heard)
        except NatsError as error:
            raise Unavailable(f"cannot subscribe to {subject!r}: {error}") from error

    async def listen(self, subject: str, hear: Callable[[bytes], None]) -> Subscription:
        """Call `hear` with what each message brings, in the moment in which it is read.

        Nothing waits in between, so that costs least; `hear` must be quick, and raise nothing.

        Raises:
            Unavailable: the connection is closed.
        """
        heard = cast("asyncio.Future[Msg]", _Heard(hear))  # a queue and a task would cost more than all else
        try:
            return await self.client.subscribe(subject, future=heard)
        except NatsError as error:
            raise Unavailable(f"cannot listen to {subject!r}: {error}") from error

    async def request(
        self, subject: str, data: bytes, timeout_s: float = 2.0, headers: dict[str, str] | None = None
    ) -> Message:
        """Ask and wait for the answer.

        Raises:
            Unavailable: nobody listens on the subject, the connection is closed, or too much waits for a lost server.
            Refused: the data is larger than the server takes; it was not sent.
            TimeoutError: no answer in time.
        """
        if headers and len(data) + _written(headers) > self.client.max_payload:
            raise self._too_large(subject, len(data) + _written(headers))  # the server would close the connection
        try:
            reply = await _heeding_cancellation(self.client.request(subject, data, timeout=timeout_s, headers=headers))
        except NoRespondersError as error:
            raise Unavailable(f"nobody answers on {subject!r}") from error
        except NatsTimeout as error:
            raise TimeoutError(f"no answer on {subject!r} within {timeout_s} s") from error
        except MaxPayloadError as error:
            raise self._too_large(subject, len(data)) from error
        except NatsError as error:
            raise Unavailable(f"cannot ask {subject!r}: {error}") from error
        return Message(reply.subject, reply.data, reply.reply, reply.headers or {})

    def _too_large(self, subject: str, size: int) -> Refused:
        limit = self.client.max_payload
        return Refused(TOO_LARGE, f"{size} bytes for {subject!r}, the server takes {limit}: send less")

    async def api(self, verb: str, body: dict[str, Any] | None = None, timeout_s: float = 5.0) -> dict[str, Any]:
        """Call the JetStream API.

        Args:
            verb: what follows `$JS.API.`.
            body: the JSON request.
            timeout_s: seconds to wait.

        Raises:
            Refused: with JetStream's error code.
            Unavailable: JetStream is off or unreachable.
            TimeoutError: no answer in time.
        """
        reply = await self.request(f"$JS.API.{verb}", msgspec.json.encode(body or {}), timeout_s)
        answer: dict[str, Any] = msgspec.json.decode(reply.data)
        problem = answer.get("error")
        if problem:
            raise Refused(int(problem.get("err_code", 0)), str(problem.get("description", "")))
        return answer


def _written(headers: Mapping[str, str]) -> int:
    """Count the bytes of headers, with what is around them."""
    return 16 + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())


class _Heard:
    """In the place of a future, which takes one message: takes every one, at once."""

    def __init__(self, hear: Callable[[bytes], None]) -> None:
        self._hear = hear

    def cancelled(self) -> bool:
        """Say that messages are wanted."""
        return False

    def set_result(self, message: Msg) -> None:
        """Hand a message on."""
        self._hear(message.data)


def accepted(reply: Message) -> int:
    """Read a publish acknowledgement; return the sequence that the message has in its stream.

    Raises:
        Refused: it is none.
    """
    answer = msgspec.json.decode(reply.data)
    problem = answer.get("error")
    if problem is not None:
        raise Refused(int(problem.get("err_code", 0)), str(problem.get("description")))
    return int(answer["seq"])


async def _heeding_cancellation(asked: Awaitable[T]) -> T:
    """Await what may forget that we are cancelled, and remember.

    `asyncio.wait_for` forgets a cancellation that meets its result, up to Python 3.11; nats-py drops one that comes
    while it waits for room to send.
    """
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    try:
        return await asked
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


def _look_at(attempt: asyncio.Task[None]) -> None:
    """See what became of a task, so that asyncio does not complain that nobody did."""
    if not attempt.cancelled():
        attempt.exception()


async def _log_error(error: Exception) -> None:
    log.warning("NATS: %s", str(error) or type(error).__name__)
