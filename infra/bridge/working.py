"""Places for answers behind doors whose requests are not all for a model: those of protocols with one route for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import msgspec

from infra.bridge.desk import Desk
from infra.bridge.doors import House, Shape, place
from infra.bridge.openai import BadRequest, decoded

_INVALID: Final = -32600
_PARSE: Final = -32700
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


class RpcMessage(msgspec.Struct, frozen=True):
    """What every message of JSON-RPC is: a request or notification, or an answer."""

    jsonrpc: Literal["2.0"]
    method: str | msgspec.UnsetType = msgspec.UNSET
    id: str | int | float | msgspec.UnsetType | None = msgspec.UNSET
    params: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    result: Any = msgspec.UNSET
    error: Any = msgspec.UNSET


class RpcProblem(msgspec.Struct, frozen=True):
    """The inside of an error of JSON-RPC."""

    code: int
    message: str
    data: Any = msgspec.UNSET
    """Of ours, an object: our `code`, the HTTP `status`, and `retryAfterMs` where it may help to try again."""


class RpcFailure(msgspec.Struct, frozen=True):
    """An error of JSON-RPC."""

    jsonrpc: Literal["2.0"]
    id: str | int | float | None
    error: RpcProblem


def refuse_no_rpc(body: bytes) -> None:
    """See that a body is a JSON-RPC message, in fewer words than an SDK has for one that is none.

    Raises:
        BadRequest: it is not.
    """
    try:
        message = decoded(body, RpcMessage)
    except BadRequest as problem:
        told = problem.body.error
        code = "parse_error" if told.code == "invalid_json" else told.code
        raise BadRequest(400, told.message, told.param, code) from problem
    if message.method is msgspec.UNSET and message.result is msgspec.UNSET and message.error is msgspec.UNSET:
        raise BadRequest(400, "method: name what is asked for", "method", "invalid_value")


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
        if told.code == "parse_error":
            number = _PARSE
        return {"jsonrpc": "2.0", "id": identity, "error": {"code": number, "message": told.message, "data": data}}

    return shape
