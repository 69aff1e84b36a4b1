"""`ostinato mcp`: the agents of the running stack, for an MCP client that starts its servers itself."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import sys
from typing import Any

from infra.access import runtime_of
from infra.client import connect
from infra.errors import NotRunning
from infra.mcp.opened import Opened
from schemas.rest import AgentOffered

_AGENT = "agent/"
_LOOK_S = 1.0


def main(options: argparse.Namespace) -> int:
    """Speak on standard input and output until the client goes; exit code 1 where the extra is missing."""
    if importlib.util.find_spec("mcp") is None:
        sys.stderr.write("ostinato: MCP is not installed: pip install 'ostinato[mcp]'\n")
        return 1
    asyncio.run(_serve(options.data, options.tenant))
    return 0


async def _serve(data: str, tenant: str) -> None:
    agents = _offered(data)
    async with connect(data, tenant) as client:
        calls = importlib.import_module("infra.mcp.calls")
        # one client at the other end, which says so when it cancels; one that goes away ends nothing
        origin = calls.Origin(lambda context: client, lambda context: "stdio", lambda context: False)
        offer = importlib.import_module("infra.mcp.offer").OfferToOne(agents)
        opened = Opened(client.connection).tools
        server = importlib.import_module("infra.mcp.server").AgentServer(offer, calls.Calls(origin), opened).server()
        about = importlib.import_module("mcp.server.lowlevel").NotificationOptions(tools_changed=True)
        looking = asyncio.create_task(_look(data, offer), name="agents")
        try:
            async with importlib.import_module("mcp.server.stdio").stdio_server() as (reading, writing):
                await server.run(reading, writing, server.create_initialization_options(about))
        finally:
            looking.cancel()


async def _look(data: str, offer: Any) -> None:
    """Offer what the stack serves, also after it was started again with other agents."""
    while True:
        await asyncio.sleep(_LOOK_S)
        with contextlib.suppress(NotRunning):  # it may come again
            await offer.change(await asyncio.to_thread(_offered, data))


def _offered(data: str) -> list[AgentOffered]:
    names = (name.removeprefix(_AGENT) for name in runtime_of(data).served if name.startswith(_AGENT))
    return [AgentOffered(name, tools=None) for name in names]
