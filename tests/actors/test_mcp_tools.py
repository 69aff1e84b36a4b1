"""Tools of MCP servers, real ones: as processes that are started, and over HTTP."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.errors import BadArguments, DefinitionError, InDoubt, NoService, ToolError
from actors.mcp_tools import McpTools
from actors.tools import Suspend, Tool, ToolContext
from actors.toolsets import Prefixed, Surroundings, toolset_of
from ostinato import Agent
from schemas.context import traced

SCRIPT = str(Path(__file__).parent / "mcp_server.py")
COMMAND = (sys.executable, SCRIPT)
pytestmark = [pytest.mark.anyio, pytest.mark.deadline(60)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def context(**about: Any) -> ToolContext:
    return ToolContext("acme", "t1", "acme/t1/e1", 0, {}, **about)


async def tools_of(server: Any) -> dict[str, Tool]:
    return {tool.name: tool for tool in await server.tools(Surroundings())}


async def test_tools_are_listed_page_for_page_and_called(tmp_path: Path) -> None:
    server = McpTools(command=COMMAND, env={"STARTS": str(tmp_path / "starts")}, effects={"add": "pure"})
    tools = await tools_of(server)
    assert set(tools) == {"add", "fail", "die", "slow_down", "paint", "trace", "who"}
    assert (tools["add"].effect, tools["fail"].effect) == ("pure", "once")
    assert tools["add"].description == "Do add."
    assert tools["add"].parameters["properties"]["a"] == {"type": "integer"}
    output = await tools["add"].call('{"a": 2, "b": 3}', context())
    assert (output.content, output.result) == ("5", {"total": 5})
    assert (await tools["paint"].call("{}", context())).content == "look:\n[image: image/png, 6 bytes]"
    assert set(await tools_of(server)) == set(tools)
    assert (tmp_path / "starts").read_text("ascii") == "x"


async def test_tools_are_what_the_server_has_now_whatever_it_said_before(tmp_path: Path) -> None:
    (tmp_path / "more").touch()
    server = McpTools(command=COMMAND, env={"MORE": str(tmp_path / "more")})
    before = set(await tools_of(server))
    (tmp_path / "more").write_text("dance", "ascii")
    assert set(await tools_of(server)) == {*before, "dance"}


async def test_errors_are_the_models_to_read() -> None:
    tools = await tools_of(McpTools(command=COMMAND))
    with pytest.raises(ToolError, match="there is no b"):
        await tools["fail"].call("{}", context())
    for arguments in ("[1]", "{", '"x"'):
        with pytest.raises(BadArguments, match="no JSON object"):
            await tools["add"].call(arguments, context())


async def test_the_trace_of_a_call_is_told_to_its_server() -> None:
    tools, trace = await tools_of(McpTools(command=COMMAND)), f"00-{'ab' * 16}-{'cd' * 8}-01"
    with traced(trace):
        assert (await tools["trace"].call("{}", context())).content == trace
    assert (await tools["trace"].call("{}", context())).content == "None"


async def test_progress_is_told_and_the_environment_is_the_servers() -> None:
    told: list[Any] = []
    server = McpTools(command=COMMAND, env={"SECRET": "hush"})
    tools = await tools_of(server)
    output = await tools["slow_down"].call("{}", context(report=told.append))
    assert output.content == "hush"
    assert [one["message"] for one in told] == ["step 1", "step 2"]
    assert "hush" not in repr(server)
    assert "hush" not in repr(tools)


async def test_a_server_that_dies_in_a_call_is_told_of_and_started_again(tmp_path: Path) -> None:
    server = McpTools(command=COMMAND, env={"STARTS": str(tmp_path / "starts")})
    tools = await tools_of(server)
    with pytest.raises(InDoubt, match="went away before it answered"):
        await tools["die"].call("{}", context())
    assert (await tools["add"].call('{"a": 1, "b": 1}', context())).content == "2"
    assert (tmp_path / "starts").read_text("ascii") == "xx"


async def test_a_server_that_died_between_runs_is_started_again_to_list_its_tools(tmp_path: Path) -> None:
    server = McpTools(command=COMMAND, env={"STARTS": str(tmp_path / "starts")})
    tools = await tools_of(server)
    with pytest.raises(NoService):
        await tools["die"].call("{}", context())
    (link,) = server._links.values()
    link._leave.clear()  # as when it died while nobody asked
    assert set(await tools_of(server)) == set(tools)
    assert (tmp_path / "starts").read_text("ascii") == "xx"


async def test_what_a_server_wants_of_a_person_suspends_the_call_and_goes_back_to_it() -> None:
    tools = await tools_of(McpTools(command=COMMAND))
    with pytest.raises(Suspend) as suspended:
        await tools["who"].call("{}", context())
    assert suspended.value.payload == {"message": "Who are you?"}
    assert suspended.value.schema["required"] == ["name"]
    assert (await tools["who"].call("{}", context(answers=({"name": "Ada"},)))).content == "hello Ada"
    assert (await tools["who"].call("{}", context(answers=(False,)))).content == "nobody"


async def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(NoService, match=r"no-such-program.* cannot be reached"):
        await McpTools(command=("no-such-program",)).tools(Surroundings())
    with pytest.raises(NoService, match=r"cannot be reached|Connection"):
        await McpTools(url="http://127.0.0.1:9/mcp", start_s=5).tools(Surroundings())
    with pytest.raises(NoService, match=r"within 0\.5 s"):
        await McpTools(command=("sleep", "60"), start_s=0.5).tools(Surroundings())


async def test_only_some_under_a_prefix() -> None:
    tools = await tools_of(McpTools(command=COMMAND, only=("add", "slow.down"), prefix="far-", needs_approval=True))
    assert set(tools) == {"far-add", "far-slow_down"}
    assert all(tool.binding.approval for tool in tools.values())
    with pytest.raises(NoService, match="no tool 'nothing'"):
        await McpTools(command=COMMAND, only=("nothing",)).tools(Surroundings())
    prefixed = await tools_of(Prefixed(McpTools(command=COMMAND, only=("add",)), "x_"))
    assert (await prefixed["x_add"].call('{"a": 4}', context())).content == "4"


def test_the_sdk_is_imported_off_the_event_loop() -> None:
    script = (
        "import asyncio, sys, threading\n"
        "from actors.mcp_tools import McpTools\n"
        "from actors.toolsets import Surroundings\n"
        "where = []\n"
        "def heard(event, args):\n"
        "    if event == 'import' and args[0].startswith('mcp.'):\n"
        "        where.append(threading.current_thread() is threading.main_thread())\n"
        "sys.addaudithook(heard)\n"
        f"print(len(asyncio.run(McpTools(command={COMMAND!r}).tools(Surroundings()))), where[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.split() == ["7", "False"]


def test_a_set_that_says_not_where_is_refused() -> None:
    for about in ({}, {"url": "http://x", "command": ("y",)}, {"command": "python server.py"}):
        with pytest.raises(DefinitionError, match="McpTools"):
            McpTools(**about)  # type: ignore[arg-type]
    assert toolset_of(Agent("far", "x", tools=McpTools(command=COMMAND)).tools)  # type: ignore[arg-type]


@pytest.fixture
def served() -> Iterator[str]:
    """A server over HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([*COMMAND, str(port)])
    end = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < end
    yield f"http://127.0.0.1:{port}/mcp"
    process.kill()
    process.wait(10)


async def test_over_http_too(served: str) -> None:
    server = McpTools(url=served, headers={"authorization": "Bearer hush"})
    tools = await tools_of(server)
    output = await tools["add"].call('{"a": 20, "b": 22}', context())
    assert json.loads(output.content) == 42
    assert "hush" not in repr(server)
