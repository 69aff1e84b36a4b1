"""The route of the Model Context Protocol: streamable HTTP, without sessions."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from infra.bridge.callers import caller_of
from infra.bridge.desk import Desk
from infra.bridge.doors import Door, Operation, told
from infra.bridge.openai import BadRequest
from infra.client import Client


@dataclass
class _Served:
    """The SDK's application, made when it is first asked for: its import takes seconds."""

    desk: Desk
    _manager: asyncio.Future[Any] | None = field(default=None)
    _task: asyncio.Task[None] | None = field(default=None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if importlib.util.find_spec("mcp") is None:
            message = "MCP is not served: install ostinato[mcp]"
            await told(BadRequest(501, message, None, "not_installed"))(scope, receive, send)
            return
        manager = await self._started()
        await manager.handle_request(scope, receive, send)

    async def _started(self) -> Any:
        if self._manager is None:
            self._manager = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._run(self._manager), name="mcp")
        return await asyncio.shield(self._manager)

    async def _run(self, ready: asyncio.Future[Any]) -> None:
        try:
            manager = await asyncio.to_thread(self._made)
        except (ImportError, AttributeError) as error:  # an SDK that is not whole: who asks next tries again
            self._manager = None
            ready.set_exception(error)
            return
        async with manager.run():
            ready.set_result(manager)
            await asyncio.Event().wait()

    def _made(self) -> Any:
        http = importlib.import_module("mcp.server.streamable_http_manager")
        security = importlib.import_module("mcp.server.transport_security")
        ours = importlib.import_module("infra.mcp.server")

        def client_of(context: Any) -> Client:
            desk = self.desk
            return Client(desk.connection, desk.read_back, desk.store, caller_of(context.request).tenant, "mcp")

        server = ours.AgentServer(self.desk.offered, client_of).server()
        unguarded = security.TransportSecuritySettings(enable_dns_rebinding_protection=False)  # the door has looked
        return http.StreamableHTTPSessionManager(app=server, stateless=True, security_settings=unguarded)


def mcp_doors(desk: Desk) -> list[Door]:
    """List them."""
    served = _Served(desk)

    async def mcp(request: Request) -> Response:
        """Speak the Model Context Protocol: streamable HTTP."""
        raise AssertionError("the application below answers")

    about = Operation("Speak the Model Context Protocol: streamable HTTP", streams=True, own=True)
    door = Door("/mcp", mcp, "agents", methods=("POST",), operation=about)
    door.app = served
    return [door]
