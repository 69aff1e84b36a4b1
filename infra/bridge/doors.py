"""Routes that say who may enter: the only ones that the bridge's table takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from infra.bridge.callers import caller_of, forbidden
from infra.bridge.openai import BadRequest
from schemas.keys import KeyScope

Endpoint = Callable[[Request], Awaitable[Response]]
Shape = Callable[[BadRequest], object]
"""Writes an error as a protocol does."""


def openai_error(problem: BadRequest) -> object:
    """Write an error as OpenAI does."""
    return problem.body


def told(problem: BadRequest, shape: Shape = openai_error) -> Response:
    """Answer with an error."""
    return Response(msgspec.json.encode(shape(problem)), problem.status, problem.headers, "application/json")


class Door(Route):
    """A route with the scopes any of which opens it; with none it is open to everybody.

    What stands behind it may want more: `Caller.must`.
    """

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *wants: KeyScope,
        methods: Sequence[str] = ("GET",),
        shape: Shape = openai_error,
    ) -> None:
        super().__init__(path, endpoint, methods=list(methods))
        self.wants = wants
        self.shape = shape

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let in who may."""
        problem = refused(scope, self.wants)
        if problem is not None:
            await told(problem, self.shape)(scope, receive, send)
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
        problem = refused(scope, self.wants)
        if problem is not None:
            await told(problem, self.shape)(scope, receive, send)
            return
        await super().handle(scope, receive, send)


def refused(scope: Any, wants: tuple[KeyScope, ...]) -> BadRequest | None:
    """Say why a caller may not enter."""
    caller = caller_of(Request(scope))
    return forbidden(wants) if wants and not caller.scopes.intersection(wants) else None
