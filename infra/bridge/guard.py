"""What every request passes before any route: it gets a name, and whoever sent it is found out."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.bridge.asked_of_agents import LEFT_OUT
from infra.bridge.callers import CALLER, NAME, NAMED, REQUEST_ID, Caller, request_id_of
from infra.bridge.doors import HOUSE, House, told
from infra.bridge.openai import THREAD_HEADER, BadRequest
from schemas.context import REQUEST, TRACE, Ids

CROSS_ORIGIN: Final[Mapping[str, Any]] = {
    "allow_methods": ["GET", "POST", "PUT", "PATCH", "DELETE"],
    "allow_headers": ["*"],
    "expose_headers": [
        *("x-request-id", "request-id", "retry-after", "retry-after-ms", "x-should-retry", "mcp-session-id"),
        *(THREAD_HEADER, LEFT_OUT),
    ],
    "max_age": 600,
}
"""What pages of other origins may send and see, where any may."""

_TRACEPARENT = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

Ask = Callable[[Mapping[str, str]], Awaitable[Caller]]
"""Says who sent a request with some headers; raises BadRequest where nobody may."""


def trace_of(headers: Mapping[str, str]) -> str:
    """Return the trace context that a client sent; one that no tracer could read is none."""
    given = headers.get("traceparent", "")
    return given if _TRACEPARENT.fullmatch(given) else ""


def work_on(request: HTTPConnection) -> None:
    """Have the task that calls this log, and send commands, as one of a request's own."""
    REQUEST.set(request_id_of(request))
    TRACE.set(trace_of(request.headers))


@dataclass(frozen=True)
class GuardRules:
    """What a guard goes by."""

    ask: Ask
    house: House
    ids: Ids


class Guarded(Starlette):
    """An application behind a guard, which even what is wrong with the application passes on its way out."""

    def __init__(self, rules: GuardRules, **parts: Any) -> None:
        super().__init__(**parts)
        self.rules = rules

    def build_middleware_stack(self) -> ASGIApp:
        """Put the guard before everything."""
        return _Guard(super().build_middleware_stack(), self.rules)


class _Guard:
    """ASGI middleware; whom it finds out about, the doors judge."""

    def __init__(self, app: ASGIApp, rules: GuardRules) -> None:
        self._app = app
        self._ask = rules.ask
        self._house = rules.house
        self._ids = rules.ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})  # none is served
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        scope[NAMED] = REQUEST_ID.fullmatch(given) is not None
        scope[NAME], scope[HOUSE] = given if scope[NAMED] else self._ids.new("req"), self._house

        named_in = _named_in(scope, headers)

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                # its body may have named it meanwhile
                named = [(header, scope[NAME].encode()) for header in named_in]
                message["headers"] = [*message.get("headers", ()), *named]
                self._house.answers.count(scope, message["status"])
            await send(message)

        size = sum(len(field) + len(value) for field, value in scope["headers"])
        if size > self._house.limits.header_kb << 10:
            problem = BadRequest(431, f"headers are larger than {self._house.limits.header_kb} KiB", None, "too_large")
            await told(problem)(scope, receive, answered)
            return
        request, trace = REQUEST.set(scope[NAME]), TRACE.set(trace_of(headers))
        try:
            scope[CALLER] = await self._ask(headers)
        except BadRequest as error:
            scope[CALLER] = error
        await self._app(scope, receive, answered)
        # not of one that broke: the server logs that in the same task, and is to say which it was
        REQUEST.reset(request)
        TRACE.reset(trace)


def _named_in(scope: Scope, headers: Headers) -> tuple[bytes, ...]:
    """Say which headers of an answer name its request: Anthropic's clients look for another, whatever they ask for."""
    anthropic = "anthropic-version" in headers or scope["path"].startswith("/v1/messages")
    return (b"x-request-id", b"request-id") if anthropic else (b"x-request-id",)
