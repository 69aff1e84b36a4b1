"""A server of `benchmarks/bridge.py` in a process of its own: the bridge as the stack runs it, or a bare ASGI echo.

`python -m benchmarks.bridge_process bridge NATS POSTGRES` or `… echo TOKENS INTERVAL_S` prints its port, and ends when
its input does.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from actors.runtime.context import SystemChance, SystemClock, SystemIds
from bus.connection import Connection
from bus.store import Store
from infra.bridge.app import Bridge
from infra.readback import read_back_from
from infra.serving import access_to, serving
from infra.settings import AccessSettings, LimitSettings, Settings

_CHUNK = (
    b'data: {"id":"chatcmpl-g00000000000000000000000","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"m","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]}\n\n'
)


async def _idle() -> dict[str, Any]:
    return {"status": "ok"}


async def bridge(nats: str, postgres: str) -> None:
    """Serve the bridge."""
    settings = Settings()
    async with (
        await Connection.open(nats, "bridge") as connection,
        await Store.open(postgres) as store,
        access_to(settings, connection, store) as access,
    ):
        served = Bridge(
            connection=connection,
            read_back=read_back_from(store),
            ids=SystemIds(),
            clock=SystemClock(),
            chance=SystemChance(),
            models=("m",),
            agents=(),
            tenant="default",
            state=_idle,
            ask=access.caller,
            places=4096,
        )
        await _served(served.application())


async def echo(tokens: int, interval_s: float) -> None:
    """Serve as many tokens as ready bytes at the same pace."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body", False):
            pass
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(tokens):
            await asyncio.sleep(interval_s)
            await send({"type": "http.response.body", "body": _CHUNK, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    await _served(application)


async def _served(application: Any) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(2048)
        async with serving(application, AccessSettings(), LimitSettings(), listening):
            print(listening.getsockname()[1], flush=True)  # noqa: T201
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    kind, first, second = sys.argv[1:]
    uvloop.run(bridge(first, second) if kind == "bridge" else echo(int(first), float(second)))
