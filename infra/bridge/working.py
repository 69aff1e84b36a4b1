"""Places for answers behind doors whose requests are not all for a model: those of protocols with one route for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from infra.bridge.desk import Desk
from infra.bridge.doors import House, Shape, place
from infra.bridge.openai import BadRequest

_INVALID: Final = -32600
_SERVER: Final = -32000
"""The first of the numbers that JSON-RPC leaves to servers."""


class RpcCall(msgspec.Struct, frozen=True):
    """What is to be known of a JSON-RPC request before it is read by whom it is for."""

    method: str = ""
    id: str | int | float | None = None
    params: dict[str, Any] = msgspec.field(default_factory=dict)


def rpc_call(body: bytes) -> RpcCall:
    """Read it; what is none asks for nothing."""
    try:
        return msgspec.json.decode(body, type=RpcCall)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return RpcCall()


@contextmanager
def at_work(desk: Desk, house: House, size: int) -> Iterator[None]:
    """Take a place for as long as an answer is made to a body of some size.

    Raises:
        BadRequest: it is too large for a model to read, all places are taken, or the server is about to stop.
    """
    most = house.limits.prompt_kb << 10
    if size > most:
        raise BadRequest(413, f"the body is larger than {most} bytes: send less", None, "too_large")
    if desk.under_way.draining:
        raise BadRequest(503, "the server is about to stop: try again later", None, "draining")
    with place(house):
        yield


def rpc_error(identity: str | float | None = None) -> Shape:
    """Write errors as JSON-RPC does, about a request with some id."""

    def shape(problem: BadRequest) -> object:
        told = problem.body.error
        data: dict[str, object] = {"code": told.code, "status": problem.status}
        if "retry-after-ms" in problem.headers:
            data["retryAfterMs"] = int(problem.headers["retry-after-ms"])
        number = _INVALID if problem.status in {400, 413} else _SERVER
        return {"jsonrpc": "2.0", "id": identity, "error": {"code": number, "message": told.message, "data": data}}

    return shape
