"""What every request passes before any route: it gets a name, and whoever sent it is found out."""

from __future__ import annotations

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.bridge.callers import ALL_SCOPES, Caller
from schemas.context import Ids

_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class Guard:
    """ASGI middleware; whom it lets through, the doors judge."""

    def __init__(self, app: ASGIApp, tenant: str, ids: Ids) -> None:
        self._app = app
        self._nobody = Caller(tenant, ALL_SCOPES)
        self._ids = ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = self._name(Headers(scope=scope).get("x-request-id", ""))
        scope["ostinato.request"] = name
        scope["ostinato.caller"] = self._nobody

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        await self._app(scope, receive, named)

    def _name(self, given: str) -> str:
        return given if _REQUEST_ID.fullmatch(given) else self._ids.new("req")
