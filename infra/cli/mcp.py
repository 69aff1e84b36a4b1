"""`ostinato mcp`: the agents of the running stack, for an MCP client that starts its servers itself."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import sys

from infra.access import runtime_of
from infra.client import connect
from schemas.rest import AgentOffered

_AGENT = "agent/"


def main(options: argparse.Namespace) -> int:
    """Speak on standard input and output until the client goes; exit code 1 where the extra is missing."""
    if importlib.util.find_spec("mcp") is None:
        sys.stderr.write("ostinato: MCP is not installed: pip install 'ostinato[mcp]'\n")
        return 1
    asyncio.run(_serve(options.data, options.tenant))
    return 0


async def _serve(data: str, tenant: str) -> None:
    names = [name.removeprefix(_AGENT) for name in runtime_of(data).served if name.startswith(_AGENT)]
    async with connect(data, tenant) as client:
        calls = importlib.import_module("infra.mcp.calls")
        # one client at the other end, which says so when it cancels; one that goes away ends nothing
        origin = calls.Origin(lambda context: client, lambda context: "stdio", lambda context: False)
        offered = [AgentOffered(name, tools=None) for name in names]
        server = importlib.import_module("infra.mcp.server").AgentServer(offered, calls.Calls(origin)).server()
        async with importlib.import_module("mcp.server.stdio").stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())
