"""An MCP server on standard input and output, whose one tool leaves a witness: it is not told the call's key.

For as long as a file `<witness>.hold` is there it does not answer after that.
"""

from __future__ import annotations

import asyncio
from typing import Any

import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from tests.chaos.witness import WITNESS, leave

WANTS: dict[str, Any] = {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]}
TAKES_S = 0.02


async def list_tools(context: Any, params: Any) -> types.ListToolsResult:
    """Tell of the one tool."""
    return types.ListToolsResult(tools=[types.Tool(name="stamp", description="Stamp something.", input_schema=WANTS)])


async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    """Leave a witness, and answer a moment later."""
    what = (params.arguments or {})["what"]
    await asyncio.to_thread(leave, "once", f"stamp:{what}", what)
    await asyncio.sleep(TAKES_S)
    while await asyncio.to_thread(WITNESS.with_suffix(".hold").exists):  # noqa: ASYNC110  a test's file
        await asyncio.sleep(TAKES_S)
    return types.CallToolResult(content=[types.TextContent(type="text", text=f"{what} done")])


async def serve() -> None:
    """Serve whoever started this."""
    server: Server[Any] = Server("stamps", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(serve())
