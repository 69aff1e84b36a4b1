"""One request over HTTP: the commands that it became, what is heard of them, and whether its client is still there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from bus.errors import BusError
from infra.bridge.framing import IDLE, OPENAI, Framing
from infra.bridge.handed import Told
from infra.bridge.openai import ONLY_ONCE, BadRequest, refusal
from infra.settings import LimitSettings
from schemas.commands import Command, RunAgent
from schemas.messages import Usage
from schemas.runs import Problem

log = logging.getLogger(__name__)

T = TypeVar("T")

_AHEAD = 8
"""How often something may have come of several commands that the client did not take yet."""

Chunks = list[dict[str, Any]]
"""What goes out at once: one or more."""

SILENCE_S = 15.0
"""Proxies cut connections that say nothing for a minute or less."""


class Encoder(Protocol):
    """Turns frames of an exchange's commands into what its client understands."""

    @property
    def accepted(self) -> bool:
        """Whether a command was taken on."""

    @property
    def problem(self) -> Problem | None:
        """Why there is no (whole) answer."""

    @property
    def usage(self) -> Usage:
        """What it took, as far as that is known."""

    def feed(self, frame: Told, index: int = 0) -> list[dict[str, Any]]:
        """Give the chunks that follow from one frame of the command with this index."""

    def whole(self, chunks: list[dict[str, Any]]) -> dict[str, Any]:
        """Join all chunks into one answer."""

    def usage_chunk(self) -> dict[str, Any]:
        """Give the last chunk of a stream whose client asked for the usage."""


async def _nothing() -> None:
    pass


@dataclass(slots=True)
class Exchange:
    """What a request became."""

    commands: Sequence[Command]
    encoder: Encoder
    stream: bool
    with_usage: bool
    headers: dict[str, str] = field(default_factory=dict)
    """Of the answer."""
    framing: Framing = OPENAI
    """How a stream is written."""
    background: bool = False
    """Whether it goes on whoever listens; who does not want it streamed is told that it has begun."""
    charge: Callable[[int], None] = lambda tokens: None
    """Counts what it took against its client's key."""
    before: Callable[[], Awaitable[None]] = _nothing
    """What is to be known before its commands are sent."""
    over: set[str] = field(default_factory=set)
    """Ids of commands that nothing more is heard of."""
    source: Callable[[Command], AsyncGenerator[Sequence[Told]]] | None = None
    """What is heard of its command, where that is not all that comes of it from its beginning."""

    @property
    def agent(self) -> bool:
        """Whether it runs an agent: that goes on whoever listens."""
        return isinstance(self.commands[0].data, RunAgent)

    @property
    def lasting(self) -> bool:
        """Whether it goes on when nobody listens."""
        return self.agent or self.background


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do some work for as long as the client is there.

    Raises:
        ClientGone: it went away; the work was cancelled.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        left = [task for task in (working, leaving) if not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


Heard = tuple[int, Sequence[Told]]
"""The index of a command, and what came of it at once."""


async def merged(exchange: Exchange, followed: Sequence[AsyncIterator[Sequence[Told]]]) -> AsyncGenerator[Heard]:
    """Yield the frames of several commands as they come, each with its command's index; what one raises is raised."""
    if len(followed) == 1:
        # nothing to merge: a queue and a task in between would cost as much as all else
        async for only in followed[0]:
            yield 0, only
        exchange.over.add(exchange.commands[0].id)
        return
    heard: asyncio.Queue[tuple[int, Sequence[Told] | None]] = asyncio.Queue()
    room = asyncio.Semaphore(_AHEAD)

    async def hear(index: int, together: AsyncIterator[Sequence[Told]]) -> None:
        try:
            async for frames in together:
                await room.acquire()  # who reads slowly has what he follows drop what it must
                heard.put_nowait((index, frames))
        finally:
            heard.put_nowait((index, None))

    hearing = [asyncio.create_task(hear(*numbered)) for numbered in enumerate(followed)]
    try:
        while len(exchange.over) < len(hearing):
            index, frames = await heard.get()
            if frames is not None:
                room.release()
                yield index, frames
                continue
            await hearing[index]
            exchange.over.add(exchange.commands[index].id)
    finally:
        for task in hearing:
            task.cancel()


def failure(exchange: Exchange) -> BadRequest:
    """Say why there is no answer; a client must not by itself begin a run of an agent again that had begun."""
    encoder = exchange.encoder
    problem = BadRequest(500, "the run ended without an answer", None, "no_answer")
    if encoder.problem is not None:
        problem = refusal(encoder.problem)
    if exchange.agent and encoder.accepted:
        problem.headers |= ONLY_ONCE
    return problem


async def written(first: Chunks, rest: AsyncIterator[Chunks], exchange: Exchange) -> AsyncGenerator[bytes]:
    """Write an exchange's chunks as the events of a stream, and at the end what its protocol has there."""
    encoder, framing = exchange.encoder, exchange.framing
    event = framing.event
    yield b"".join(map(event, first))
    try:
        async for chunks in rest:
            yield event(chunks[0]) if len(chunks) == 1 else b"".join(map(event, chunks))
    except (BusError, TimeoutError) as error:
        log.warning("stream broken off: %s", error)
        message = "the event bus does not answer: read the thread again"
        yield framing.failed(BadRequest(503, message, None, "unavailable"))
        return
    if encoder.problem is not None:
        yield framing.failed(failure(exchange))
    else:
        yield framing.end(encoder.usage_chunk() if exchange.with_usage else None)


class Stream(StreamingResponse):
    """A streamed answer whose source is closed as soon as it ends, whatever ends it."""

    def __init__(
        self,
        body: AsyncIterator[bytes],
        source: AsyncGenerator[Any],
        headers: dict[str, str],
        limits: LimitSettings,
        idle: bytes = IDLE,
    ) -> None:
        """Make it.

        Args:
            body: what is sent.
            source: what that is made of.
            headers: of the answer.
            limits: how long it may take, and how long its client may read nothing.
            idle: what is sent when nothing is said for long, so that nothing on the way cuts the connection.
        """
        super().__init__(body, media_type="text/event-stream", headers=headers)
        self._source = source
        self._limits = limits
        self._idle = idle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, within its time, to a client that reads it."""
        pace = _Pace(send)
        async with aclosing(self._source):
            keeping = asyncio.create_task(self._keep(pace), name="stream")
            try:
                async with asyncio.timeout(self._limits.stream_s) as pace.whole:
                    await super().__call__(scope, receive, pace.send)
            except TimeoutError:
                # who gets less than was begun knows by the connection's end
                log.warning("a stream was cut off: %s", "nobody read it" if pace.sending else "its time was over")
            finally:
                keeping.cancel()

    async def stream_response(self, send: Send) -> None:
        """Send all parts as they come; all are bytes."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for part in self.body_iterator:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep(self, pace: _Pace) -> None:
        """Say now and then that there is somebody, and end what nobody reads."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(SILENCE_S, self._limits.stalled_s) / 2)
            since = loop.time() - pace.since
            if pace.sending and since > self._limits.stalled_s:
                pace.whole.reschedule(loop.time())
            elif pace.begun and not pace.sending and since > SILENCE_S:
                await pace.send({"type": "http.response.body", "body": self._idle, "more_body": True})


class _Pace:
    """Passes on what is sent, and knows since when nothing was, or since when it is not taken."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self.whole: asyncio.Timeout
        self.begun = False
        self.sending = False
        self.since = self._loop.time()

    async def send(self, message: Message) -> None:
        """Send a part."""
        self.since = self._loop.time()
        self.sending = True
        await self._send(message)
        self.sending = False
        self.begun = True
