"""The route of the Model Context Protocol: streamable HTTP, with sessions that are names and nothing more."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import AsyncIterator, Hashable
from contextlib import ExitStack, asynccontextmanager, suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from infra.bridge.bodies import again
from infra.bridge.callers import caller_of
from infra.bridge.desk import Desk
from infra.bridge.doors import HOUSE, Door, Operation, told
from infra.bridge.guard import work_on
from infra.bridge.openai import BadRequest
from infra.bridge.working import RpcFailure, RpcMessage, at_work, refuse_no_rpc, rpc_call, rpc_error
from infra.client import Client
from infra.mcp.opened import Opened

_SESSION: Final = "mcp-session-id"
_VERSION: Final = "mcp-protocol-version"
"""Clients send it once they know it: they have been given a session by then, where they want one."""
_JSON: Final = "application/json"
_LEFT: Final = "ostinato.mcp.left"
_SDK: Final = ("mcp.server.streamable_http_manager", "mcp.server.transport_security", "infra.mcp.server")
"""Modules that take a while to import, ours among them for what it needs of it."""
_SPEAKING: Final = Operation(
    *("Speak the Model Context Protocol: streamable HTTP", RpcMessage, RpcMessage),
    streams=True,
    tells=(RpcMessage,),
    also={202: None},
    fails=(404, 406, 415, 501, 503),
    error=RpcFailure,
)
_MODERN: Final = "2026-07-28"
"""From this revision on a client cancels a call by closing its answer's stream."""


@dataclass
class _Served:
    """The SDK's application, made when it is first asked for."""

    desk: Desk
    _manager: asyncio.Future[Any] | None = field(default=None)
    _task: asyncio.Task[None] | None = field(default=None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request.

        Raises:
            BadRequest: it is none of JSON-RPC.
        """
        if self._manager is None and await asyncio.to_thread(importlib.util.find_spec, "mcp") is None:
            message = "MCP is not served: install ostinato[mcp]"
            await told(BadRequest(501, message, None, "not_installed"), rpc_error())(scope, receive, send)
            return
        if not Headers(scope=scope).get("content-type", "").lower().startswith(_JSON):
            raise BadRequest(415, f"header content-type: send {_JSON}", "content-type", "invalid_value")
        body = await Request(scope, receive).body()
        call, receive = rpc_call(body), _noting(scope, again(body, receive))
        refuse_no_rpc(body)
        with ExitStack() as stack:
            if call.method == "tools/call" and call.params.get("name") != "cancel_run":
                try:
                    stack.enter_context(at_work(self.desk, scope[HOUSE], len(body)))
                except BadRequest as full:
                    await told(full, rpc_error(call.id))(scope, receive, send)
                    return
            manager = await self._started()
            await manager.handle_request(scope, receive, self._with_session(scope, send))

    def _with_session(self, scope: Scope, send: Send) -> Send:
        """Give a client that has no session one: it sends it along from now on, and nothing is kept for it."""
        headers = Headers(scope=scope)
        if _SESSION in headers or _VERSION in headers:
            return send
        name = (_SESSION.encode(), self.desk.ids.new("mcp").encode())

        async def given(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), name]
            await send(message)

        return given

    async def _started(self) -> Any:
        if self._manager is None:
            self._manager = asyncio.get_running_loop().create_future()
            # it is everybody's: nothing of the request that is the first may cling to it
            self._task = asyncio.create_task(self._run(self._manager), name="mcp", context=Context())
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
        http, security, ours = map(importlib.import_module, _SDK)
        calls = importlib.import_module("infra.mcp.calls")
        offer = importlib.import_module("infra.mcp.offer").Offer(self.desk.offered)
        origin = calls.Origin(self._client_of, _session_of, _left)
        opened = Opened(self.desk.connection).tools
        server = ours.AgentServer(offer, calls.Calls(origin), opened).server()
        unguarded = security.TransportSecuritySettings(enable_dns_rebinding_protection=False)  # the door has looked
        return http.StreamableHTTPSessionManager(app=server, stateless=True, security_settings=unguarded)

    def _client_of(self, context: Any) -> Client:
        desk = self.desk
        work_on(context.request)
        return Client(desk.connection, desk.read_back, desk.store, caller_of(context.request).tenant, "mcp")


@asynccontextmanager
async def at_hand() -> AsyncIterator[None]:
    """Import the SDK, where it is there, while a server begins: who asks first need not wait for that."""
    importing = asyncio.create_task(asyncio.to_thread(_imported), name="mcp import")
    try:
        yield
    finally:
        importing.cancel()


def _imported() -> None:
    with suppress(ImportError, AttributeError):  # whoever asks is told
        if importlib.util.find_spec("mcp") is not None:
            for name in _SDK:
                importlib.import_module(name)


def _session_of(context: Any) -> Hashable | None:
    """Name a client that has a session, among those that come with its key."""
    session = context.request.headers.get(_SESSION)
    caller = caller_of(context.request)
    return None if session is None else (caller.tenant, caller.key, session)


def _left(context: Any) -> bool:
    """Say whether a client has closed an answer's stream, where that means that it cancels its call."""
    return context.protocol_version >= _MODERN and bool(context.request.scope.get(_LEFT))


def _noting(scope: Scope, receive: Receive) -> Receive:
    """Note when a client goes away."""

    async def noted() -> Message:
        message = await receive()
        if message["type"] == "http.disconnect":
            scope[_LEFT] = True
        return message

    return noted


def mcp_doors(desk: Desk) -> list[Door]:
    """List them."""
    served = _Served(desk)

    async def mcp(request: Request) -> Response:
        """Speak the Model Context Protocol: streamable HTTP."""
        raise AssertionError("the application below answers")

    door = Door("/mcp", mcp, "agents", methods=("POST",), shape=rpc_error(), operation=_SPEAKING)
    door.app = served
    return [door]
