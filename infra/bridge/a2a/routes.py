"""The routes of the Agent2Agent protocol: for each agent its card, JSON-RPC and REST, through the official SDK."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from infra.bridge.desk import Desk
from infra.bridge.doors import Door, Operation, Wing, told
from infra.bridge.openai import BadRequest
from infra.client import Client
from schemas import codec
from schemas.rest import AgentOffered

_CARD = "/.well-known/agent-card.json"


@dataclass
class _Served:
    """One agent's application, made when it is first asked for: the SDK's import takes a second."""

    desk: Desk
    agent: AgentOffered
    _app: ASGIApp | None = field(default=None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if importlib.util.find_spec("a2a") is None:
            problem = BadRequest(501, "A2A is not served: install ostinato[a2a]", None, "not_installed")
            await told(problem)(scope, receive, send)
            return
        if self._app is None:
            self._app = self._made(Request(scope))
        await self._app(scope, receive, send)

    def _made(self, request: Request) -> ASGIApp:
        routes = importlib.import_module("a2a.server.routes")
        handler = importlib.import_module("infra.bridge.a2a.handler")
        made = handler.AgentHandler(self.agent.name, self._client_of, self._card(request))
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
        base = str(request.base_url).partition("/a2a/")[0].rstrip("/")
        return importlib.import_module("infra.bridge.a2a.shapes").card(self.agent, f"{base}/a2a/{self.agent.name}/")

    async def card(self, request: Request) -> Response:
        """Describe the agent, where it is asked for."""
        if importlib.util.find_spec("a2a") is None:
            raise BadRequest(501, "A2A is not served: install ostinato[a2a]", None, "not_installed")
        shown = importlib.import_module("google.protobuf.json_format").MessageToDict(self._card(request))
        return Response(codec.encode(shown), media_type="application/json")


def a2a_doors(desk: Desk) -> list[Door | Wing]:
    """List them; the first agent is the one that is found at the root."""
    served = [_Served(desk, agent) for agent in desk.offered]
    about = Operation("A2A: describe an agent")
    doors: list[Door | Wing] = [Door(_CARD, one.card, "agents", operation=about) for one in served[:1]]
    for one in served:
        path = f"/a2a/{one.agent.name}"
        doors += [Door(path + _CARD, one.card, "agents", operation=about), Wing(path, one, "agents")]
    return doors
