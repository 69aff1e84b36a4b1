"""The routes of the Agent2Agent protocol: for each agent its card, JSON-RPC and REST, through the official SDK."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from infra.bridge.bodies import again, refuse_deep, whole_body
from infra.bridge.desk import Desk
from infra.bridge.doors import HOUSE, Door, Shape, Wing, told
from infra.bridge.openai import BadRequest
from infra.bridge.operations import CARD
from infra.bridge.working import at_work, rpc_call, rpc_error
from infra.client import Client
from schemas import codec
from schemas.rest import AgentOffered

_CARD = "/.well-known/agent-card.json"
_PLACES = 2
"""Slashes of `/a2a/NAME`."""
_SENDING = frozenset({"SendMessage", "SendStreamingMessage"})
_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    408: "DEADLINE_EXCEEDED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
}
"""Of errors, as google.rpc has them, by HTTP status."""


@dataclass
class _Served:
    """One agent's application, made when it is first asked for: the SDK's import takes a second."""

    desk: Desk
    agent: AgentOffered
    _app: ASGIApp | None = field(default=None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        try:
            app = await self._application(Request(scope))
        except BadRequest as problem:
            await told(problem, _shape(scope))(scope, receive, send)
            return
        if scope["method"] != "POST":
            await app(scope, receive, send)
            return
        limits = scope[HOUSE].limits
        body = await whole_body(receive, limits.body_mb << 20, limits.body_s)
        refuse_deep(body, limits.nesting)
        asks, shape = _read(scope, body)
        receive = again(body, receive)
        with ExitStack() as stack:
            if asks:
                try:
                    stack.enter_context(at_work(self.desk, scope[HOUSE], len(body)))
                except BadRequest as full:
                    await told(full, shape)(scope, receive, send)
                    return
            await app(scope, receive, send)

    async def _application(self, request: Request) -> ASGIApp:
        """Give what answers.

        Raises:
            BadRequest: the extra is not there: 501.
        """
        if self._app is None:
            made = await asyncio.to_thread(self._made, request)
            self._app = self._app or made  # somebody else may have asked meanwhile
        return self._app

    def _made(self, request: Request) -> ASGIApp:
        described = self._card(request)
        routes = importlib.import_module("a2a.server.routes")
        handler = importlib.import_module("infra.bridge.a2a.handler")
        pushes = importlib.import_module("infra.bridge.a2a.pushes").Pushes(self.desk.a2a)
        made = handler.AgentHandler(self.agent.name, self._client_of, described, pushes)
        builder = handler.ContextBuilder()
        return Starlette(
            routes=[
                *routes.create_jsonrpc_routes(made, "/", builder),
                *routes.create_rest_routes(made, builder),
            ]
        )

    def _client_of(self, context: Any) -> Client:
        desk = self.desk
        return Client(desk.connection, desk.read_back, desk.store, context.state["tenant"], "a2a")

    def _card(self, request: Request) -> Any:
        """Describe the agent.

        Raises:
            BadRequest: the extra is not there: 501.
        """
        if importlib.util.find_spec("a2a") is None:
            raise BadRequest(501, "A2A is not served: install ostinato[a2a]", None, "not_installed")
        base = str(request.base_url).partition("/a2a/")[0].rstrip("/")
        url = f"{base}/a2a/{self.agent.name}/"
        shapes = importlib.import_module("infra.bridge.a2a.shapes")
        return shapes.card(self.agent, url, keyed=self.desk.keyed, pushes=self.desk.a2a.push == "on")

    def _shown(self, request: Request) -> bytes:
        described = self._card(request)
        return codec.encode(importlib.import_module("google.protobuf.json_format").MessageToDict(described))

    async def card(self, request: Request) -> Response:
        """Describe the agent, where it is asked for."""
        return Response(await asyncio.to_thread(self._shown, request), media_type="application/json")


class AgentWing(Wing):
    """Both bindings of an agent; each writes errors in its own way."""

    def shape_of(self, scope: Scope) -> Shape:
        """Say how errors are written where a request goes."""
        return _shape(scope)


def _is_rest(scope: Scope) -> bool:
    """Say whether a request is of the binding that has a path for each method."""
    return str(scope["path"]).rstrip("/").count("/") > _PLACES


def _shape(scope: Scope) -> Shape:
    return rest_error if _is_rest(scope) else rpc_error()


def _read(scope: Scope, body: bytes) -> tuple[bool, Shape]:
    """Say whether a request asks an agent something, and how what is wrong with it is written."""
    if _is_rest(scope):
        return str(scope["path"]).endswith(("/message:send", "/message:stream")), rest_error
    call = rpc_call(body)
    return call.method in _SENDING, rpc_error(call.id)


def rest_error(problem: BadRequest) -> object:
    """Write an error as the binding of HTTP and JSON does."""
    told = problem.body.error
    about = {"@type": _INFO, "reason": (told.code or "unknown").upper(), "domain": "ostinato", "metadata": {}}
    name = _NAMES.get(problem.status, "INTERNAL")
    return {"error": {"code": problem.status, "status": name, "message": told.message, "details": [about]}}


def a2a_doors(desk: Desk) -> list[Door | Wing]:
    """List them; the first agent is the one that is found at the root."""
    served = [_Served(desk, agent) for agent in desk.offered]
    doors: list[Door | Wing] = [Door(_CARD, one.card, "agents", operation=CARD) for one in served[:1]]
    for one in served:
        path = f"/a2a/{one.agent.name}"
        doors += [Door(path + _CARD, one.card, "agents", operation=CARD), AgentWing(path, one, "agents")]
    return doors
