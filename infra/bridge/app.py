"""The HTTP bridge's routes: thin; what they say is decided by the encoders and the bus."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bus import subjects
from bus.commands import send_command
from bus.connection import Connection
from bus.errors import BadSubject, BusError, Refused
from infra.bridge.chat import ChatEncoder
from infra.bridge.completions import CompletionEncoder, generations, read_completion
from infra.bridge.exchange import ClientGone, Encoder, Exchange, Stream, merged, while_there
from infra.bridge.logprobs import by_id, by_text
from infra.bridge.openai import (
    AGENT_PREFIX,
    SESSION_HEADER,
    THREAD_HEADER,
    BadRequest,
    command_data,
    decoded,
    error_body,
    read_request,
    refusal,
    retry_headers,
)
from infra.bridge.under_way import UnderWay
from infra.follow import ReadBack, follow
from schemas import codec
from schemas.commands import AbortRun, Command, CommandData, Generate, RunAgent
from schemas.context import Chance, Clock, Ids
from schemas.generation import Forgotten
from schemas.openai import StreamOptions
from schemas.times import rfc3339
from schemas.tracing import beginning

log = logging.getLogger(__name__)

Timed = TypeVar("Timed", bound=CommandData)

_LARGEST_BODY = 4 << 20
_LONGEST_SESSION = 1000
_FORGET_S = 5.0
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_TRACEPARENT = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class AbortRequest(msgspec.Struct, frozen=True):
    """`POST /inference/v1/abort_requests`, as vLLM has it."""

    request_ids: tuple[str, ...]


@dataclass(frozen=True)
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
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]] | None = None
    """Gives what Prometheus asks for, as its `accept` header wants it, and the content type."""

    @cached_property
    def under_way(self) -> UnderWay:
        """What clients wait for now."""
        return UnderWay(self._abort)

    def application(self) -> Starlette:
        """Build the ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self.chat_completions, methods=["POST"]),
                Route("/v1/completions", self.completions, methods=["POST"]),
                Route("/inference/v1/abort_requests", self.abort_requests, methods=["POST"]),
                Route("/reset_prefix_cache", self.reset_prefix_cache, methods=["POST"]),
                Route("/v1/models", self.list_models),
                Route("/health", self.health),
                Route("/metrics", self.tell_metrics),
            ],
            exception_handlers={404: _not_found, 405: _not_found, 500: _broken},
        )

    async def health(self, request: Request) -> Response:
        """Say whether the stack serves."""
        state = await self.state()
        status = 200 if state["status"] == "ok" else 503
        return _json(state, status, retry_headers(status))

    async def tell_metrics(self, request: Request) -> Response:
        """Tell Prometheus."""
        if self.metrics is None:
            return _json(error_body(404, "this stack tells no metrics", None, "not_found"), 404)
        body, content_type = await self.metrics(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def list_models(self, request: Request) -> Response:
        """List what may be given as `model`."""
        names = [*self.models, *(AGENT_PREFIX + name for name in self.agents)]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "ostinato"} for name in names]
        return _json({"object": "list", "data": data})

    async def chat_completions(self, request: Request) -> Response:
        """Answer with an agent, in a thread, or with a bare generation."""
        return await self._served(request, self._chat)

    async def completions(self, request: Request) -> Response:
        """Answer raw prompts, one generation each."""
        return await self._served(request, self._completion)

    async def abort_requests(self, request: Request) -> Response:
        """End generations by id, whoever waits for them; ids that nobody knows are ignored."""
        try:
            ids = decoded(await _body(request), AbortRequest).request_ids
        except BadRequest as error:
            return _json(error.body, error.status, error.headers)
        self.under_way.abort(dict.fromkeys(ids))
        return Response(status_code=200)

    async def reset_prefix_cache(self, request: Request) -> Response:
        """Empty the prefix caches of all models; say how many KV blocks could be found until then."""
        blocks = 0
        try:
            for model in self.models:
                reply = await self.connection.request(subjects.forget(model), b"", _FORGET_S)
                blocks += codec.decode(reply.data, Forgotten).blocks
        except (BusError, TimeoutError) as error:
            log.warning("prefix caches: %s", error)
            return _json(error_body(503, "an engine does not answer: try again", None, "unavailable"), 503)
        return _json({"blocks": blocks})

    async def _served(self, request: Request, ask: Callable[[Request, bytes], Exchange]) -> Response:
        given = request.headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else self.ids.new("req")
        headers = {"x-request-id": request_id}
        try:
            exchange = ask(request, await _body(request))
            self._refuse_in_trouble()
            exchange.headers = headers
            return await self._answer(request, exchange, request_id)
        except BadRequest as error:
            problem = error
        except ClientGone:
            return Response(status_code=499)  # as nginx logs it; nobody reads it
        except Refused as error:
            message = f"the server takes no more requests: {error.description}"
            problem = BadRequest(503, message, None, "overloaded")
        except (BusError, TimeoutError) as error:
            log.warning("request %s: %s", request_id, error)
            problem = BadRequest(503, "the event bus does not answer: try again", None, "unavailable")
        return _json(problem.body, problem.status, {**headers, **problem.headers})

    def _refuse_in_trouble(self) -> None:
        if self.under_way.draining:
            raise BadRequest(503, "the server is about to stop: try again later", None, "draining")
        if trouble := self.trouble():
            raise BadRequest(503, trouble, None, "overloaded")

    def _chat(self, request: Request, body: bytes) -> Exchange:
        asked = read_request(body)
        given = request.headers.get(THREAD_HEADER)
        data = self._timed(command_data(asked, given), asked.timeout_s)
        if given is not None:
            try:
                subjects.checked(given, f"header {THREAD_HEADER}:")
            except BadSubject as error:
                raise BadRequest(400, str(error), THREAD_HEADER, "invalid_value") from error
        command = self._command(request, data, given)
        last: Literal["run.finished", "model.returned"] = (
            "run.finished" if isinstance(data, RunAgent) else "model.returned"
        )
        reasoning = asked.include_reasoning is not False
        encoder = ChatEncoder(
            *(command.id, asked.model, self._seconds(), last),
            reasoning=reasoning,
            texts=asked.detokenize is not False,
            echo=asked.echoed(),
            naming=by_id if asked.return_tokens_as_token_ids else by_text,
        )
        return Exchange([command], encoder, asked.stream, _with_usage(asked.stream_options))

    def _completion(self, request: Request, body: bytes) -> Exchange:
        asked = read_completion(body)
        commands = [self._command(request, self._timed(data, asked.timeout_s)) for data in generations(asked)]
        encoder = CompletionEncoder(commands[0].id, asked, self._seconds())
        return Exchange(commands, encoder, asked.stream, _with_usage(asked.stream_options))

    def _seconds(self) -> int:
        return self.clock.now() // 1_000_000

    def _timed(self, data: Timed, timeout_s: float | None) -> Timed:
        """Say when it is to be over."""
        if timeout_s is None:
            return data
        return msgspec.structs.replace(data, deadline=self.clock.now() + int(timeout_s * 1e6))

    def _command(self, request: Request, data: CommandData, thread: str | None = None) -> Command:
        agent = isinstance(data, RunAgent)
        session = request.headers.get(SESSION_HEADER, "")
        if len(session) > _LONGEST_SESSION:
            message = f"header {SESSION_HEADER}: longer than {_LONGEST_SESSION} characters"
            raise BadRequest(400, message, SESSION_HEADER, "invalid_value")
        if session and isinstance(data, Generate) and not data.session_id:
            data = msgspec.structs.replace(data, session_id=session)
        identity = self.ids.new("r" if agent else "g")
        return Command(
            id=identity,
            tenant=self.tenant,
            kind="agent" if agent else "generation",
            thread=(thread or self.ids.new("t")) if agent else identity,
            verb="run" if agent else "generate",
            data=data,
            source="http",
            time=rfc3339(self.clock.now()),
            traceparent=self._traceparent(request.headers.get("traceparent", ""), identity),
        )

    def _traceparent(self, given: str, command: str) -> str:
        """Keep the client's trace; one that no tracer could read is replaced."""
        if _TRACEPARENT.fullmatch(given):
            return given
        return beginning(self.chance.bits(128), self.tenant, command)

    async def _answer(self, request: Request, exchange: Exchange, name: str) -> Response:
        encoder = exchange.encoder
        chunks = self._chunks(exchange, name)
        first = await while_there(request, _next(chunks))
        if first is None:
            raise _failure(encoder)
        if exchange.stream:
            return Stream(_sse(first, chunks, exchange), chunks, {**exchange.headers, **_NO_BUFFERING})
        everything = [first, *await while_there(request, _rest(chunks))]
        if encoder.problem is not None:
            raise _failure(encoder)
        return _json(encoder.whole(everything), 200, exchange.headers)

    async def _chunks(self, exchange: Exchange, name: str) -> AsyncGenerator[dict[str, Any]]:
        """Follow the commands; the answer's headers name an agent's thread as soon as that is known to exist."""
        encoder = exchange.encoder
        followed = [follow(self.connection, self.read_back, command) for command in exchange.commands]
        self.under_way.enter(exchange, name)
        try:
            async with aclosing(merged(exchange, followed)) as frames:
                async for index, frame in frames:
                    chunks = encoder.feed(frame, index)
                    if encoder.accepted and exchange.agent:
                        exchange.headers[THREAD_HEADER] = exchange.commands[0].thread
                    for chunk in chunks:
                        yield chunk
                    if encoder.problem is not None and len(exchange.commands) > 1:
                        return  # an answer that lacks one of its choices is none
        finally:
            self.under_way.leave(exchange, name)

    async def _abort(self, generation: str, reason: str) -> None:
        try:
            subjects.checked(generation, "request_ids")
        except BadSubject:
            return  # no generation has such an id
        data = AbortRun(reason=reason)
        identity = self.ids.new("a")
        time, trace = rfc3339(self.clock.now()), self._traceparent("", identity)
        command = Command(identity, self.tenant, "generation", generation, "abort", data, "http", time, trace)
        await send_command(self.connection, command)


_NO_BUFFERING = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def _with_usage(options: StreamOptions | None) -> bool:
    return options is not None and options.include_usage


async def _next(chunks: AsyncGenerator[dict[str, Any]]) -> dict[str, Any] | None:
    return await anext(chunks, None)


async def _rest(chunks: AsyncGenerator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [chunk async for chunk in chunks]


def _failure(encoder: Encoder) -> BadRequest:
    if encoder.problem is not None:
        return refusal(encoder.problem)
    return BadRequest(500, "the run ended without an answer", None, "no_answer")


async def _sse(
    first: dict[str, Any], rest: AsyncGenerator[dict[str, Any]], exchange: Exchange
) -> AsyncGenerator[bytes]:
    encoder = exchange.encoder
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
    elif exchange.with_usage:
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
