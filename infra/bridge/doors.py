"""Routes that say who may enter, and how much at once: the only ones that the bridge's table takes."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.bridge.admission import Admission, Quota, Quotas, spelled
from infra.bridge.answers import PROBLEM, ROUTE, Answers
from infra.bridge.bodies import again, bounded, refuse_deep, whole_body
from infra.bridge.callers import CALLER, Caller, forbidden
from infra.bridge.openai import BadRequest
from infra.bridge.persons import shut_to
from infra.settings import LimitSettings
from schemas.keys import KeyScope
from schemas.openai import ErrorResponse

HOUSE: Final = "ostinato.house"
QUOTA: Final = "ostinato.quota"
"""Where a request's scope holds the quota of its key, where it came with one."""
SHAPE: Final = "ostinato.shape"
"""Where a request's scope holds how its protocol writes errors."""
WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})

Endpoint = Callable[[Request], Awaitable[Response]]
Shape = Callable[[BadRequest], object]
"""Writes an error as a protocol does."""


@dataclass(frozen=True)
class House:
    """What all doors have in common."""

    limits: LimitSettings
    admission: Admission
    quotas: Quotas
    answers: Answers = field(default_factory=Answers)
    now: Callable[[], float] = time.monotonic


def house_of(request: Request) -> House:
    """Return the house that a request came into."""
    house: House = request.scope[HOUSE]
    return house


def charging(request: Request) -> Callable[[int], None]:
    """Give what counts tokens against the key that a request came with."""
    quota: Quota | None = request.scope.get(QUOTA)
    return (lambda tokens: None) if quota is None else quota.tokens.take


def openai_error(problem: BadRequest) -> object:
    """Write an error as OpenAI does."""
    return problem.body


class _Told(Response):
    """An error, whose request then says which."""

    code = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[PROBLEM] = self.code
        await super().__call__(scope, receive, send)


def told(problem: BadRequest, shape: Shape = openai_error) -> Response:
    """Answer with an error."""
    answer = _Told(msgspec.json.encode(shape(problem)), problem.status, problem.headers, "application/json")
    answer.code = problem.body.error.code or ""
    return answer


class Operation(NamedTuple):
    """What a route does, for the document that tells of all of them."""

    summary: str
    takes: Any = None
    """The type of its body."""
    gives: Any = None
    """The type of its answer; None is of one that is always a stream, or has nothing in it."""
    query: Any = None
    """A struct of its parameters."""
    streams: bool = False
    """Whether it may answer with server-sent events."""
    tells: tuple[Any, ...] = ()
    """The types of what those events carry, each event one of them."""
    last: str = ""
    """What the last event carries, where that is no JSON."""
    headers: tuple[str, ...] = ()
    """That it heeds."""
    status: int = 200
    """Of an answer."""
    media: tuple[str, ...] = ("application/json",)
    """Types of an answer, of which its client may choose one."""
    also: Mapping[int, Any] = MappingProxyType({})
    """Types of answers of further statuses; None is of those that have nothing in them."""
    fails: tuple[int, ...] = ()
    """Statuses of its errors, beside those that all routes of its kind have."""
    error: Any = ErrorResponse
    """The type of its errors."""
    sends: str = "application/json"
    """How its body is written."""


ANSWERING: Final = (400, 404, 409, 429, 502, 503, 504)
"""Statuses of errors where a model or an agent is asked."""


class Door(Route):
    """A route with the scopes any of which opens it; with none it is open to everybody.

    What stands behind it may want more: `Caller.must`. Its requests count against their key's quota. A body comes in
    whole, within `limits.body_mb`; with `upload_mb` it may be that large, and is passed on as it comes.
    """

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *wants: KeyScope,
        methods: Sequence[str] = ("GET",),
        shape: Shape = openai_error,
        upload_mb: int = 0,
        operation: Operation | None = None,
    ) -> None:
        super().__init__(path, endpoint, methods=list(methods))
        self.operation = operation
        self.wants = wants
        self.shape = shape
        self.upload_mb = upload_mb

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let in who may."""

        async def enter(counted: Send) -> None:
            await super(Door, self).handle(scope, await self._taken(scope, receive), counted)

        scope[ROUTE] = self.path
        await _through(scope, receive, send, self.wants, self.shape, enter)

    def most(self, limits: LimitSettings) -> int:
        """Say how many bytes a body may have."""
        return limits.body_mb << 20

    async def _taken(self, scope: Scope, receive: Receive) -> Receive:
        """Take the body in.

        Raises:
            BadRequest: it is not within bounds.
        """
        limits: LimitSettings = scope[HOUSE].limits
        if scope["method"] not in WITH_BODY:
            return receive
        if self.upload_mb:
            return bounded(receive, self.upload_mb << 20)
        body = await whole_body(receive, self.most(limits), limits.body_s)
        refuse_deep(body, limits.nesting)
        return again(body, receive)


@contextmanager
def place(house: House) -> Iterator[None]:
    """Take a place for as long as an answer is made.

    Raises:
        BadRequest: there is none.
    """
    wait_ms = house.admission.enter(house.now())
    if wait_ms is not None:
        message = "the server has as much to do as it can: try again later"
        raise BadRequest(429, message, None, "overloaded", retry_after_ms=wait_ms)
    try:
        yield
    finally:
        house.admission.leave(house.now())


class Workplace(Door):
    """A door behind which answers are made: only so many at once, and who comes then is told so at once."""

    def most(self, limits: LimitSettings) -> int:
        """Say how many bytes a body may have: a model is to read it."""
        return min(super().most(limits), limits.prompt_kb << 10)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let in who may, while there is a place."""
        house: House = scope[HOUSE]
        scope[ROUTE] = self.path
        if _refused(scope, self.wants) is not None:
            await super().handle(scope, receive, send)
            return
        with ExitStack() as stack:
            try:
                stack.enter_context(place(house))
            except BadRequest as full:
                await told(full, self.shape)(scope, receive, send)
                return
            await super().handle(scope, receive, send)


class Wing(Mount):
    """An application below a path, with the scopes any of which opens all of it."""

    def __init__(self, path: str, app: ASGIApp, *wants: KeyScope, shape: Shape = openai_error) -> None:
        super().__init__(path, app)
        self.wants = wants
        self.shape = shape

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let in who may."""

        async def enter(counted: Send) -> None:
            most = scope[HOUSE].limits.body_mb << 20
            await super(Wing, self).handle(scope, bounded(receive, most), counted)

        scope[ROUTE] = self.path
        await _through(scope, receive, send, self.wants, self.shape_of(scope), enter)

    def shape_of(self, scope: Scope) -> Shape:
        """Say how errors are written where a request goes."""
        return self.shape


async def _through(
    scope: Scope,
    receive: Receive,
    send: Send,
    wants: tuple[KeyScope, ...],
    shape: Shape,
    enter: Callable[[Send], Awaitable[None]],
) -> None:
    """See that a caller may, and not too often, and have it enter."""
    problem = _refused(scope, wants)
    if problem is not None:
        await told(problem, shape)(scope, receive, send)
        return
    house: House = scope[HOUSE]
    caller = scope[CALLER]
    if not isinstance(caller, Caller) or not caller.key or not wants:
        await _heeding(scope, receive, send, shape, enter)
        return
    now = house.now()
    quota = scope[QUOTA] = house.quotas.of(caller.tenant, caller.key, caller.rates, now)
    wait_s = quota.enter(now)
    counted = _counted(send, quota)
    if wait_s:
        message = "this key has come as often as it may, or has as many requests or tokens: try again later"
        often = BadRequest(429, message, None, "rate_limit_exceeded", retry_after_ms=math.ceil(wait_s * 1000))
        await told(often, shape)(scope, receive, counted)
        return
    try:
        await _heeding(scope, receive, counted, shape, enter)
    finally:
        quota.leave()


async def _heeding(
    scope: Scope, receive: Receive, send: Send, shape: Shape, enter: Callable[[Send], Awaitable[None]]
) -> None:
    """Have a caller enter; what is wrong with the request is told as the protocol tells it."""
    began = False
    scope[SHAPE] = shape

    async def sent(message: Message) -> None:
        nonlocal began
        began = True
        await send(message)

    try:
        await enter(sent)
    except BadRequest as error:
        if began:
            raise
        await told(error, shape)(scope, receive, send)


def _refused(scope: Scope, wants: tuple[KeyScope, ...]) -> BadRequest | None:
    """Say why a caller may not enter."""
    caller = scope[CALLER]
    if not wants:
        return None
    if isinstance(caller, BadRequest):
        return caller
    return forbidden(wants) if caller.scopes.isdisjoint(wants) else shut_to(caller, scope[ROUTE])


def _counted(send: Send, quota: Quota) -> Send:
    """Tell with an answer how the key stands, as OpenAI does."""
    told: list[tuple[bytes, bytes]] = []
    for what, bucket in (("requests", quota.requests), ("tokens", quota.tokens)):
        standing = bucket.standing()
        if standing is not None:
            told += [
                (f"x-ratelimit-limit-{what}".encode(), str(standing.limit).encode()),
                (f"x-ratelimit-remaining-{what}".encode(), str(standing.remaining).encode()),
                (f"x-ratelimit-reset-{what}".encode(), spelled(standing.reset_s).encode()),
            ]
    if not told:
        return send

    async def counted(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *told]
        await send(message)

    return counted
