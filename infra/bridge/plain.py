"""Answers of JSON, and what a client is told where no route has anything of its own to say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from infra.bridge.doors import SHAPE, openai_error, told
from infra.bridge.openai import BadRequest, error_body


def json_answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with a value."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")


async def _not_found(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    body = error_body(status, f"no route {request.method} {request.url.path}", None, "not_found")
    # which methods there are
    return json_answer(body, status, dict(getattr(error, "headers", None) or {}))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequest)
    return told(error, request.scope.get(SHAPE, openai_error))


async def _broken(request: Request, error: Exception) -> Response:
    problem = BadRequest(500, "internal error: see the server's log", None, "internal")
    return told(problem, request.scope.get(SHAPE, openai_error))


HANDLERS: Final[Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]]] = {
    404: _not_found,
    405: _not_found,
    500: _broken,
    BadRequest: _refused,
}
"""What is said of an error, by its status or kind."""
