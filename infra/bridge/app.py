"""The HTTP bridge's routes: thin; what they say is decided by the encoders and the bus."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property

import msgspec
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from bus import subjects
from bus.commands import send_command
from bus.connection import Connection
from bus.errors import BadSubject, BusError, Refused, Unavailable
from bus.store import Store
from infra.bridge.about import VERSION
from infra.bridge.admission import Admission, Quotas, Rates
from infra.bridge.answers import Answers
from infra.bridge.callers import ALL_SCOPES, Caller, caller_of, may_look, request_id_of
from infra.bridge.chat import chat_encoder
from infra.bridge.completions import CompletionEncoder, generations, read_completion
from infra.bridge.desk import Timed
from infra.bridge.doors import Door, House, Operation, Wing, Workplace, charging
from infra.bridge.exchange import Chunks, ClientGone, Exchange, Stream, failure, merged, while_there, written
from infra.bridge.guard import CROSS_ORIGIN, Ask, Guarded, GuardRules, trace_of
from infra.bridge.handed import Told
from infra.bridge.handing import heard, in_turn, met, thread_for
from infra.bridge.metering import exchange_of
from infra.bridge.openai import (
    ONLY_ONCE,
    SESSION_HEADER,
    THREAD_HEADER,
    BadRequest,
    command_data,
    decoded,
    read_request,
    retry_headers,
)
from infra.bridge.openapi import openapi_door
from infra.bridge.ownership import keep_commands_to_own
from infra.bridge.persons import owned
from infra.bridge.plain import HANDLERS, json_answer
from infra.bridge.protocols import protocol_doors
from infra.bridge.under_way import UnderWay
from infra.errors import PictureRefused
from infra.follow import ReadBack, follow_together
from infra.pictures import with_pictures_kept
from infra.settings import A2ASettings, LimitSettings
from infra.spans.asides import Aside, nobody_follows
from schemas import codec
from schemas.about import CachesEmptied, Health
from schemas.commands import AbortRun, Command, CommandData, Generate, RunAgent
from schemas.context import TRACE, Chance, Clock, Ids
from schemas.generation import Forgotten
from schemas.live import Delta
from schemas.openai import ChatRequest
from schemas.rest import AgentOffered
from schemas.sessions import LONGEST_SESSION
from schemas.times import rfc3339
from schemas.tracing import beginning

log = logging.getLogger(__name__)

_FORGET_S = 5.0


class AbortRequest(msgspec.Struct, frozen=True):
    """`POST /inference/v1/abort_requests`, as vLLM has it."""

    request_ids: tuple[str, ...]


async def _no_record() -> Store:
    raise Unavailable("there is no record here")


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
    state: Callable[[], Awaitable[Health]]
    """What `/health` answers; its `status` is `ok` when everything serves."""
    trouble: Callable[[], str] = str
    """Why nothing can be taken now; empty while all is well."""
    ask: Ask | None = None
    """Who sent a request; whoever it is belongs to `tenant` and may do everything, unless given."""
    limits: LimitSettings = field(default_factory=LimitSettings)
    places: int = 512
    """Requests at the same time."""
    origins: tuple[str, ...] = ()
    """Of web pages that may ask."""
    adapters: tuple[str, ...] = ()
    """Of the first of `models`, each a model to whoever asks."""
    poolers: tuple[str, ...] = ()
    """Models that give vectors or scores."""
    offered: tuple[AgentOffered, ...] = ()
    """What the agents are."""
    store: Callable[[], Awaitable[Store]] = _no_record
    """Opens the record, for what is listed."""
    routed: tuple[str, ...] = ()
    """Models elsewhere, and chains of models."""
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]] | None = None
    """Gives what Prometheus asks for, as its `accept` header wants it, and the content type."""
    more: Sequence[Door | Wing] = ()
    """Routes of what stands beside it."""
    answers: Answers = field(default_factory=Answers)
    """Counts them."""
    keyed: bool = False
    """Whether nobody comes in without a key or token."""
    aside: Callable[[Aside], None] = nobody_follows
    """Hears of what is in no record and has a span."""
    a2a: A2ASettings = field(default_factory=A2ASettings)
    """What is set of the Agent2Agent protocol."""

    @cached_property
    def under_way(self) -> UnderWay:
        """What clients wait for now."""
        return UnderWay(self.abort)

    def doors(self) -> list[Door | Wing]:
        """List every route, each with the scopes any of which opens it: one without is open to all."""
        post = ("POST",)
        doors: list[Door | Wing] = [
            Workplace("/v1/chat/completions", self.chat_completions, "inference", "agents", methods=post),
            Workplace("/v1/completions", self.completions, "inference", methods=post),
            Door("/inference/v1/abort_requests", self.abort_requests, "inference", methods=post, operation=_ABORTING),
            Door("/reset_prefix_cache", self.reset_prefix_cache, "admin", methods=post),
            Door("/health", self.health),
            Door("/metrics", self._tell_metrics, "metrics", "admin"),
            *protocol_doors(self),
            *self.more,
        ]
        return [*doors, openapi_door(doors, VERSION)]

    def application(self) -> Guarded:
        """Build the ASGI application."""
        limits, doors = self.limits, self.doors()
        self.answers.expect(door.path for door in doors)
        rates = Rates(limits.requests_per_minute, limits.concurrent, limits.tokens_per_minute)
        house = House(limits, Admission(self.places), Quotas(rates), self.answers)
        crossing = [Middleware(CORSMiddleware, allow_origins=self.origins, **CROSS_ORIGIN)] if self.origins else []
        return Guarded(
            GuardRules(self.ask or self._anybody, house, self.ids),
            routes=doors,
            middleware=crossing,
            exception_handlers=dict(HANDLERS),
        )

    async def _anybody(self, headers: Mapping[str, str]) -> Caller:
        return Caller(self.tenant, ALL_SCOPES)

    async def health(self, request: Request) -> Response:
        """Say whether the stack serves, and to whoever may see it, how."""
        state = await self.state()
        status = 200 if state.status == "ok" else 503
        if not may_look(request):
            state = Health(state.status)
        return json_answer(state, status, retry_headers(status))

    async def _tell_metrics(self, request: Request) -> Response:
        if self.metrics is None:
            raise BadRequest(404, "this stack tells no metrics", None, "not_found")
        body, content_type = await self.metrics(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def chat_completions(self, request: Request) -> Response:
        """Answer with an agent, in a thread, or with a bare generation."""
        return await self.served(request, self._chat)

    async def completions(self, request: Request) -> Response:
        """Answer raw prompts, one generation each."""
        return await self.served(request, self._completion)

    async def abort_requests(self, request: Request) -> Response:
        """End generations by id, whoever waits for them; ids that nobody knows are ignored."""
        ids = decoded(await request.body(), AbortRequest).request_ids
        self.under_way.abort(caller_of(request).tenant, dict.fromkeys(ids))
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
            raise BadRequest(503, "an engine does not answer: try again", None, "unavailable") from error
        return json_answer(CachesEmptied(blocks))

    async def served(self, request: Request, ask: Callable[[Request, bytes], Exchange]) -> Response:
        """Answer with what a request becomes.

        Raises:
            BadRequest: there is no answer; the door tells it as its protocol does.
        """
        headers = dict[str, str]()
        try:
            exchange = met(self, request, ask(request, await request.body()))
            headers = exchange.headers
            exchange.commands = [await self.ready(command) for command in exchange.commands]
            await keep_commands_to_own(self, request, exchange.commands)
            await exchange.before()
            return await self._answer(request, exchange, request_id_of(request))
        except BadRequest as error:
            problem = error
        except ClientGone:
            return Response(status_code=499)  # as nginx logs it; nobody reads it
        except Refused as error:
            message = f"the server takes no more requests: {error.description}"
            problem = BadRequest(503, message, None, "overloaded")
        except (BusError, TimeoutError) as error:
            log.warning("request %s: %s", request_id_of(request), error)
            problem = BadRequest(503, "the event bus does not answer: try again", None, "unavailable")
        once = ONLY_ONCE if THREAD_HEADER in headers else {}  # an agent's run has begun
        problem.headers = {**headers, **problem.headers, **once}
        raise problem

    async def ready(self, command: Command) -> Command:
        """Make a command ready to be sent: its pictures are put away.

        Raises:
            BadRequest: one is none, or nothing can be taken now.
        """
        self._refuse_in_trouble()
        try:
            return await with_pictures_kept(command, self.connection, self.chance, self.ids)
        except PictureRefused as error:
            raise BadRequest(400, str(error), error.field, "invalid_value") from error

    def _refuse_in_trouble(self) -> None:
        if self.under_way.draining:
            raise BadRequest(503, "the server is about to stop: try again later", None, "draining")
        if trouble := self.trouble():
            raise BadRequest(503, trouble, None, "overloaded")

    def _chat(self, request: Request, body: bytes) -> Exchange:
        asked = read_request(body)
        command = self.conversation(request, asked)
        encoder = chat_encoder(asked, command, self.seconds())
        return exchange_of(self, request, asked, [command], encoder)

    def conversation(self, request: Request, asked: ChatRequest, thread: str | None = None) -> Command:
        """Make a command of messages to a model or an agent; an agent may have a thread for them already."""
        given = thread or request.headers.get(THREAD_HEADER)
        data = self.timed(command_data(asked, given), asked.timeout_s)
        if isinstance(data, RunAgent):
            given = thread_for(data, given)
            if given is not None:  # results of calls tell their thread too: whoever brings them goes on with it
                data = msgspec.structs.replace(data, thread="existing")
            data = heard(self, request, data)
        if given is not None:
            try:
                subjects.checked(given, f"header {THREAD_HEADER}:")
            except BadSubject as error:
                raise BadRequest(400, str(error), THREAD_HEADER, "invalid_value") from error
        return self.command(request, data, given)

    def _completion(self, request: Request, body: bytes) -> Exchange:
        asked = read_completion(body)
        commands = [self.command(request, self.timed(data, asked.timeout_s)) for data in generations(asked)]
        encoder = CompletionEncoder(commands[0].id, asked, self.seconds())
        return exchange_of(self, request, asked, commands, encoder)

    def seconds(self) -> int:
        """Say what time it is, in seconds since the Unix epoch."""
        return self.clock.now() // 1_000_000

    def timed(self, data: Timed, timeout_s: float | None) -> Timed:
        """Say when it is to be over."""
        if timeout_s is None:
            return data
        return msgspec.structs.replace(data, deadline=self.clock.now() + int(timeout_s * 1e6))

    def command(self, request: Request, data: CommandData, thread: str | None = None) -> Command:
        """Make a command of what a caller asks for, under a fresh name."""
        agent = isinstance(data, RunAgent)
        caller = caller_of(request)
        caller.must("agents" if agent else "inference")
        data = owned(caller, data)
        session = request.headers.get(SESSION_HEADER, "")
        if len(session) > LONGEST_SESSION:
            message = f"header {SESSION_HEADER}: longer than {LONGEST_SESSION} characters"
            raise BadRequest(400, message, SESSION_HEADER, "invalid_value")
        if session and isinstance(data, Generate) and not data.session_id:
            data = msgspec.structs.replace(data, session_id=session)
        identity = self.ids.new("r" if agent else "g")
        trace = self._traceparent(trace_of(request.headers), caller.tenant, identity)
        TRACE.set(trace)
        return Command(
            id=identity,
            tenant=caller.tenant,
            kind="agent" if agent else "generation",
            thread=(thread or self.ids.new("t")) if agent else identity,
            verb="run" if agent else "generate",
            data=data,
            source="http",
            time=rfc3339(self.clock.now()),
            traceparent=trace,
            request_id=request_id_of(request),
        )

    def _traceparent(self, given: str, tenant: str, command: str) -> str:
        return given or beginning(self.chance.bits(128), tenant, command)

    async def _answer(self, request: Request, exchange: Exchange, name: str) -> Response:
        encoder = exchange.encoder
        exchange.charge = charging(request)
        chunks = self._chunks(exchange, name)
        first = await while_there(request, _next(chunks))
        if first is None:
            raise failure(exchange)
        if exchange.stream:
            headers = {**exchange.headers, **_NO_BUFFERING}
            return Stream(written(first, chunks, exchange), chunks, headers, self.limits, exchange.framing.idle)
        if exchange.background:
            await chunks.aclose()
            return json_answer(encoder.whole(first[:1]), 200, exchange.headers)
        everything = [*first, *await while_there(request, _rest(chunks))]
        if encoder.problem is not None:
            raise failure(exchange)
        return json_answer(encoder.whole(everything), 200, exchange.headers)

    async def _chunks(self, exchange: Exchange, name: str) -> AsyncGenerator[Chunks]:
        """Follow the commands; the answer's headers name an agent's thread as soon as that is known to exist."""
        encoder, agent, heard = exchange.encoder, exchange.agent, 0
        followed = [(exchange.source or self._followed)(command) for command in exchange.commands]
        self.under_way.enter(exchange, name)
        try:
            async with aclosing(merged(exchange, followed)) as together:
                async for index, frames in together:
                    if isinstance(frames[0], Delta):
                        heard += len(frames)
                    chunks = [*encoder.feed(frames[0], index)]
                    for frame in frames[1:]:
                        chunks += encoder.feed(frame, index)
                    if agent and encoder.accepted:
                        exchange.headers[THREAD_HEADER] = exchange.commands[0].thread
                    if chunks:
                        yield chunks
                    if encoder.problem is not None and len(exchange.commands) > 1:
                        return  # an answer that lacks one of its choices is none
        finally:
            self.under_way.leave(exchange, name)
            exchange.charge(encoder.usage.prompt_tokens + encoder.usage.completion_tokens or heard)

    def _followed(self, command: Command) -> AsyncGenerator[Sequence[Told]]:
        """Hear of a command from its beginning; of an agent's run up to where its client is to act."""
        frames = follow_together(self.connection, self.read_back, command)
        return in_turn(self, command, frames) if command.kind == "agent" else frames

    async def abort(self, tenant: str, name: str, reason: str, thread: str | None = None) -> None:
        """End a generation, or an agent's run in a thread, by the name that its command has."""
        try:
            subjects.checked(name, "request_ids")
        except BadSubject:
            return  # nothing has such an id
        where = ("generation", name) if thread is None else ("agent", thread)
        data = AbortRun(reason=reason) if thread is None else AbortRun(name, reason)
        identity = self.ids.new("a")
        time, trace = rfc3339(self.clock.now()), self._traceparent("", tenant, identity)
        command = Command(identity, tenant, *where, "abort", data, "http", time, trace)
        await send_command(self.connection, command)


_ABORTING = Operation("vLLM: end generations by their ids", AbortRequest)
_NO_BUFFERING = {"cache-control": "no-cache", "x-accel-buffering": "no"}


async def _next(chunks: AsyncGenerator[Chunks]) -> Chunks | None:
    return await anext(chunks, None)


async def _rest(chunks: AsyncGenerator[Chunks]) -> Chunks:
    return [chunk async for some in chunks for chunk in some]
