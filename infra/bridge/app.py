"""The HTTP bridge's routes: thin; what they say is decided by the encoders and the bus."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from bus import subjects
from bus.connection import Connection
from bus.errors import BadSubject, BusError, Refused
from infra.bridge.chat import ChatEncoder
from infra.bridge.openai import (
    AGENT_PREFIX,
    THREAD_HEADER,
    BadRequest,
    command_data,
    error_body,
    read_request,
    refusal,
    retry_headers,
)
from infra.follow import ReadBack, follow
from schemas import codec
from schemas.commands import Command, RunAgent
from schemas.context import Chance, Clock, Ids
from schemas.openai import ChatRequest
from schemas.times import rfc3339

log = logging.getLogger(__name__)

_LARGEST_BODY = 4 << 20
_TRACEPARENT = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Bridge:
    """What the routes need, and the routes."""

    connection: Connection
    read_back: ReadBack
    ids: Ids
    clock: Clock
    chance: Chance
    models: tuple[str, ...]
    agents: tuple[str, ...]
    tenant: str
    state: Callable[[], Awaitable[dict[str, Any]]]
    """What `/health` answers; its `status` is `ok` when everything serves."""
    trouble: Callable[[], str] = str
    """Why nothing can be taken now; empty while all is well."""

    def application(self) -> Starlette:
        """Build the ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self.chat_completions, methods=["POST"]),
                Route("/v1/models", self.list_models),
                Route("/health", self.health),
            ],
            exception_handlers={404: _not_found, 405: _not_found, 500: _broken},
        )

    async def health(self, request: Request) -> Response:
        """Say whether the stack serves."""
        state = await self.state()
        status = 200 if state["status"] == "ok" else 503
        return _json(state, status, retry_headers(status))

    async def list_models(self, request: Request) -> Response:
        """List what may be given as `model`."""
        names = [*self.models, *(AGENT_PREFIX + name for name in self.agents)]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "ostinato"} for name in names]
        return _json({"object": "list", "data": data})

    async def chat_completions(self, request: Request) -> Response:
        """Answer with an agent, in a thread, or with a bare generation."""
        request_id = self.ids.new("req")
        headers = {"x-request-id": request_id}
        try:
            asked = read_request(await _body(request))
            self._refuse_in_trouble()
            command = self._command(request, asked)
            return await self._answer(asked, command, headers)
        except BadRequest as error:
            problem = error
        except Refused as error:
            message = f"the server takes no more requests: {error.description}"
            problem = BadRequest(503, message, None, "overloaded")
        except (BusError, TimeoutError) as error:
            log.warning("request %s: %s", request_id, error)
            problem = BadRequest(503, "the event bus does not answer: try again", None, "unavailable")
        return _json(problem.body, problem.status, {**headers, **problem.headers})

    def _refuse_in_trouble(self) -> None:
        if trouble := self.trouble():
            raise BadRequest(503, trouble, None, "overloaded")

    def _command(self, request: Request, asked: ChatRequest) -> Command:
        given = request.headers.get(THREAD_HEADER)
        data = command_data(asked, given)
        if given is not None:
            try:
                subjects.checked(given, f"header {THREAD_HEADER}:")
            except BadSubject as error:
                raise BadRequest(400, str(error), THREAD_HEADER, "invalid_value") from error
        agent = isinstance(data, RunAgent)
        identity = self.ids.new("r" if agent else "g")
        return Command(
            id=identity,
            tenant=self.tenant,
            kind="agent" if agent else "generation",
            thread=(given or self.ids.new("t")) if agent else identity,
            verb="run" if agent else "generate",
            data=data,
            source="http",
            time=rfc3339(self.clock.now()),
            traceparent=self._traceparent(request.headers.get("traceparent", "")),
        )

    def _traceparent(self, given: str) -> str:
        """Keep the client's trace; one that no tracer could read is replaced."""
        if _TRACEPARENT.fullmatch(given):
            return given
        return f"00-{self.chance.bits(128):032x}-{self.chance.bits(64):016x}-01"

    async def _answer(self, asked: ChatRequest, command: Command, headers: dict[str, str]) -> Response:
        agent = isinstance(command.data, RunAgent)
        created = self.clock.now() // 1_000_000
        last: Literal["run.finished", "model.returned"] = "run.finished" if agent else "model.returned"
        reasoning = asked.include_reasoning is not False
        encoder = ChatEncoder(command.id, asked.model, created, last, reasoning=reasoning)
        chunks = self._chunks(encoder, command, headers)
        first = await anext(chunks, None)
        if first is None:
            raise _failure(encoder)
        if asked.stream:
            options = asked.stream_options
            with_usage = options is not None and options.include_usage
            stream = _sse(first, chunks, encoder, with_usage)
            return StreamingResponse(stream, media_type="text/event-stream", headers={**headers, **_NO_BUFFERING})
        everything = [first, *[chunk async for chunk in chunks]]
        if encoder.problem is not None:
            raise _failure(encoder)
        return _json(encoder.whole(everything), 200, headers)

    async def _chunks(
        self, encoder: ChatEncoder, command: Command, headers: dict[str, str]
    ) -> AsyncIterator[dict[str, Any]]:
        """Follow the command; the answer's headers name its thread as soon as that is known to exist."""
        async for frame in follow(self.connection, self.read_back, command):
            chunks = encoder.feed(frame)
            if encoder.accepted and isinstance(command.data, RunAgent):
                headers[THREAD_HEADER] = command.thread
            for chunk in chunks:
                yield chunk


_NO_BUFFERING = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def _failure(encoder: ChatEncoder) -> BadRequest:
    if encoder.problem is not None:
        return refusal(encoder.problem)
    return BadRequest(500, "the run ended without an answer", None, "no_answer")


async def _sse(
    first: dict[str, Any], rest: AsyncIterator[dict[str, Any]], encoder: ChatEncoder, with_usage: bool
) -> AsyncIterator[bytes]:
    yield _event(first)
    try:
        async for chunk in rest:
            yield _event(chunk)
    except (BusError, TimeoutError) as error:
        log.warning("stream broken off: %s", error)
        yield _event(error_body(503, "the event bus does not answer: read the thread again", None, "unavailable"))
        return
    if encoder.problem is not None:
        yield _event(_failure(encoder).body)
    elif with_usage:
        yield _event(encoder.usage_chunk())
    yield b"data: [DONE]\n\n"


def _event(value: object) -> bytes:
    return b"data: " + codec.encode(value) + b"\n\n"


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, "application/json")


async def _body(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _LARGEST_BODY:
            raise BadRequest(413, f"the body is larger than {_LARGEST_BODY >> 20} MiB: send less", None, "too_large")
    return body


async def _not_found(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    body = error_body(status, f"no route {request.method} {request.url.path}", None, "not_found")
    return _json(body, status)


async def _broken(request: Request, error: Exception) -> Response:
    return _json(error_body(500, "internal error: see the server's log", None, "internal"), 500)
