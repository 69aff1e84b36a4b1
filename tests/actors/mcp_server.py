"""An MCP server for tests: on standard input and output, or over HTTP where a port is given."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import mcp_types as types
import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

STARTS = Path(os.environ.get("STARTS", "/dev/null"))
MORE = Path(os.environ.get("MORE", "/dev/null"))
"""Names of more tools than there always are."""
OBJECT: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
NAMES = ("add", "fail", "die", "slow.down", "paint", "trace", "who")
PAGE = 4


def names() -> tuple[str, ...]:
    return (*MORE.read_text("ascii").split(), *NAMES)


async def list_tools(context: Any, params: Any) -> types.ListToolsResult:
    begin = int(params.cursor) if params is not None and params.cursor else 0
    tools = [types.Tool(name=name, description=f"Do {name}.", input_schema=OBJECT) for name in names()]
    more = str(begin + PAGE) if begin + PAGE < len(tools) else None
    return types.ListToolsResult(tools=tools[begin : begin + PAGE], next_cursor=more, ttl_ms=3_600_000)


async def call_tool(context: Any, params: types.CallToolRequestParams) -> Any:
    given = params.arguments or {}
    match params.name:
        case "add":
            total = given.get("a", 0) + given.get("b", 0)
            return types.CallToolResult(content=[text(str(total))], structured_content={"total": total})
        case "fail":
            return types.CallToolResult(content=[text("there is no b")], is_error=True)
        case "die":
            os._exit(7)
        case "slow.down":
            for step in (1, 2):
                await context.session.report_progress(step, 2, f"step {step}")
            return types.CallToolResult(content=[text(os.environ.get("SECRET", ""))])
        case "paint":
            image = types.ImageContent(type="image", data="aGVsbG8=", mime_type="image/png")
            return types.CallToolResult(content=[text("look:"), image])
        case "trace":
            return types.CallToolResult(content=[text(str((context.meta or {}).get("traceparent")))])
        case _:
            return asked(params)


def asked(params: types.CallToolRequestParams) -> Any:
    """Want a name of a person."""
    given = (params.input_responses or {}).get("name")
    if not isinstance(given, types.ElicitResult):
        schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        form = types.ElicitRequestFormParams(message="Who are you?", requested_schema=schema)
        requests: dict[str, Any] = {"name": types.ElicitRequest(params=form)}
        return types.InputRequiredResult(input_requests=requests, request_state="asked")
    told = f"hello {(given.content or {})['name']}" if given.action == "accept" else "nobody"
    return types.CallToolResult(content=[text(told)])


def text(said: str) -> types.TextContent:
    return types.TextContent(type="text", text=said)


async def over_stdio() -> None:
    async with stdio_server() as (reading, writing):
        await SERVER.run(reading, writing, SERVER.create_initialization_options())


SERVER: Server[Any] = Server("test", on_list_tools=list_tools, on_call_tool=call_tool)

if __name__ == "__main__":
    with STARTS.open("a", encoding="ascii") as starts:
        starts.write("x")
    if len(sys.argv) > 1:
        uvicorn.run(SERVER.streamable_http_app(stateless_http=True), port=int(sys.argv[1]), log_level="error")
    else:
        asyncio.run(over_stdio())
