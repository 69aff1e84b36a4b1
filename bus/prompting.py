"""Agents for callers that speak the Synadia Agent Protocol for NATS, version 0.3: found, asked, asking back, and alive.

Each agent is a micro service called `agents`. Additive: an envelope's `thread` goes on with a conversation, a chunk of
type `thread` (which others must ignore) says in which one it was, and the endpoint `cancel` ends a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from nats.errors import Error as NatsError
from nats.micro import add_service
from nats.micro.request import Request

from bus import subjects
from bus.connection import Connection, Message
from bus.errors import BusError, Unavailable
from schemas.context import Clock
from schemas.faults import fault
from schemas.times import rfc3339

log = logging.getLogger(__name__)

PROTOCOL = "0.3"
HARNESS = "ostinato"
INTERVAL_S = 30
"""Between two heartbeats."""
KEEPALIVE_S = 20.0
"""A caller gives up after a minute of silence."""
QUERY_S = 3600.0
"""How long a question to the caller waits; then it is left to others to answer."""
_ASKED_MOST = 3
"""How often a question is put to a caller whose answers cannot be read."""
_MOST = 100
"""Prompts under way, of one agent in one process."""
_GROUP = "agents"
_LONGEST_ERROR = 200
_SEMVER = re.compile(r"\d+\.\d+\.\d+")


class Attachment(msgspec.Struct, frozen=True):
    """A file that comes with a prompt."""

    filename: str
    content: bytes
    """In base64 where it is written."""


class Prompt(msgspec.Struct, frozen=True):
    """What a caller asks."""

    prompt: str
    attachments: tuple[Attachment, ...] | None = None
    thread: str | None = None
    """The conversation to go on with."""


class Cancel(msgspec.Struct, frozen=True):
    """Which run is to end."""

    thread: str
    run: str = ""
    """Empty is the one under way."""


class Unfit(Exception):
    """A caller asked for what cannot be."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True, slots=True)
class Replies:
    """The stream of answers to one prompt."""

    connection: Connection
    reply: str

    async def chunk(self, kind: str, data: object) -> None:
        """Send a typed chunk."""
        await self.connection.publish(self.reply, msgspec.json.encode({"type": kind, "data": data}))

    async def fail(self, code: int, why: str) -> None:
        """Say why there is no answer; the end comes after it."""
        line = " | ".join(why.split("\n"))[:_LONGEST_ERROR]
        headers = {"Nats-Service-Error-Code": str(code), "Nats-Service-Error": line}
        await self.connection.publish(self.reply, b"", headers)

    async def end(self) -> None:
        """Send the end: an empty message without headers."""
        await self.connection.publish(self.reply, b"")

    async def ask(self, identity: str, question: str, timeout_s: float = QUERY_S) -> str | None:
        """Ask the caller something in the middle of the answer; None when it says nothing in time that can be read."""
        wanted = question
        for _ in range(_ASKED_MOST):
            given = await self._heard(identity, wanted, timeout_s)
            if given is None:
                return None
            try:
                answer = prompt_of(given)
            except Unfit as error:
                wanted = f"{question} (your answer: {error})"
                continue
            if not answer.attachments:
                return answer.prompt
            wanted = f"{question} (your answer: attachments are taken with prompts alone)"
        return None

    async def _heard(self, identity: str, question: str, timeout_s: float) -> bytes | None:
        inbox = self.connection.client.new_inbox()
        heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def hear(message: Message) -> None:
            if not heard.done():
                heard.set_result(message.data)

        subscription = await self.connection.subscribe(inbox, hear)
        try:
            await self.connection.flush()
            await self.chunk("query", {"id": identity, "reply_subject": inbox, "prompt": question})
            async with asyncio.timeout(timeout_s):
                return await heard
        except TimeoutError:
            return None
        finally:
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()


Answer = Callable[[Prompt, Replies], Awaitable[None]]
"""Answers a prompt; what it raises as `Unfit` is told."""
Stop = Callable[[Cancel], Awaitable[None]]
"""Ends a run; what it raises as `Unfit` is told."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """One agent, as callers find it."""

    name: str
    owner: str
    description: str
    version: str
    answer: Answer
    stop: Stop
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside what else there is: the handlers of one endpoint run one after the other."""
        task = asyncio.create_task(work, name=f"prompt-{self.name}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def check(self) -> None:
        """See that no more is under way than may be.

        Raises:
            Unfit: there is.
        """
        if len(self._under_way) > _MOST:
            raise Unfit(429, f"agent {self.name!r} answers {_MOST} prompts already: ask again later")

    def leave(self) -> None:
        """Answer nobody any more; what was begun goes on in the log."""
        for task in self._under_way:
            task.cancel()


def prompt_of(data: bytes) -> Prompt:
    """Read a request: plain text, or a JSON envelope, with files in strict base64.

    Raises:
        Unfit: it is neither, or empty.
    """
    try:
        envelope = data.lstrip(b"\t\n\r ").startswith(b"{")
        found = msgspec.json.decode(data, type=Prompt) if envelope else Prompt(data.decode())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unfit(400, f"neither text nor an envelope with a prompt: {error}") from error
    if not found.prompt.strip():
        raise Unfit(400, "prompt missing or empty")
    return found


@asynccontextmanager
async def hosting(connection: Connection, agent: Hosted, clock: Clock) -> AsyncIterator[None]:
    """Be found, asked and heard of as an agent, for as long as the block runs.

    Raises:
        Unavailable: the connection is closed.
    """
    about = {"agent": HARNESS, "owner": agent.owner, "session": agent.name}
    found = _SEMVER.match(agent.version)
    version = found.group() if found else "0.0.0"
    named = {**about, "protocol_version": PROTOCOL}
    described = agent.description or f"the agent {agent.name}"
    try:
        service = await add_service(
            connection.client, name="agents", version=version, description=described, metadata=named
        )
        most = {"max_payload": f"{connection.client.max_payload}B", "attachments_ok": "true"}
        prompted = {"subject": subjects.agent("prompt", HARNESS, agent.owner, agent.name), "metadata": most}
        declared = {**about, "protocol_version": PROTOCOL, "endpoints": {"prompt": prompted}}
        beat = _beat(declared, service.id, clock)
        for verb, handler, metadata in (
            ("prompt", _prompted(connection, agent), most),
            ("status", _status(beat), {}),
            ("cancel", _cancelled(agent), {}),
        ):
            subject = subjects.agent(verb, HARNESS, agent.owner, agent.name)
            await service.add_endpoint(
                name=verb, subject=subject, handler=handler, queue_group=_GROUP, metadata=metadata
            )
        await connection.flush()  # who looks for it from now on finds it
    except NatsError as error:
        raise Unavailable(f"cannot offer the agent {agent.name!r} to others: {error}") from error
    alive = asyncio.create_task(_live(connection, subjects.agent("hb", HARNESS, agent.owner, agent.name), beat))
    try:
        yield
    finally:
        alive.cancel()
        agent.leave()
        with contextlib.suppress(NatsError):
            await service.stop()


def _beat(about: dict[str, Any], instance: str, clock: Clock) -> Callable[[], bytes]:
    def beat() -> bytes:
        told = {"instance_id": instance, "ts": rfc3339(clock.now()), "interval_s": INTERVAL_S}
        return msgspec.json.encode({**about, **told})

    return beat


async def _live(connection: Connection, subject: str, beat: Callable[[], bytes]) -> None:
    while True:
        try:
            await connection.publish(subject, beat())
        except BusError as error:
            log.debug("a heartbeat was not sent: %s", error)
        await asyncio.sleep(INTERVAL_S)


def _status(beat: Callable[[], bytes]) -> Callable[[Request], Awaitable[None]]:
    async def answer(request: Request) -> None:
        await request.respond(beat())

    return answer


def _cancelled(agent: Hosted) -> Callable[[Request], Awaitable[None]]:
    async def answer(request: Request) -> None:
        async def stop() -> None:
            try:
                await agent.stop(msgspec.json.decode(request.data, type=Cancel))
            except msgspec.DecodeError as error:
                await request.respond_error("400", f"give a JSON object with a thread: {error}"[:_LONGEST_ERROR])
            except Unfit as error:
                await request.respond_error(str(error.code), str(error)[:_LONGEST_ERROR])
            else:
                await request.respond(b"{}")

        agent.begin(stop())

    return answer


def _prompted(connection: Connection, agent: Hosted) -> Callable[[Request], Awaitable[None]]:
    async def answer(request: Request) -> None:
        reply = request._msg.reply  # noqa: SLF001  the micro framework answers once; a stream needs the subject
        if reply:
            agent.begin(_answered(agent, request.data, Replies(connection, reply)))

    return answer


async def _answered(agent: Hosted, data: bytes, replies: Replies) -> None:
    """Acknowledge, answer, and end the stream, whatever happens in between."""
    alive = asyncio.create_task(_keep_alive(replies))
    try:
        await replies.chunk("status", "ack")
        agent.check()
        await agent.answer(prompt_of(data), replies)
    except Unfit as error:
        await replies.fail(error.code, str(error))
    except Exception as error:  # noqa: BLE001  who asked is told that much
        log.error("agent %r could not answer a prompt: %s", agent.name, fault(error))  # noqa: TRY400
        await replies.fail(500, "the agent could not answer: its log says why")
    finally:
        alive.cancel()
        await replies.end()


async def _keep_alive(replies: Replies) -> None:
    while True:
        await asyncio.sleep(KEEPALIVE_S)
        await replies.chunk("status", "keepalive")
