"""Tools that MCP clients call by themselves: open where the settings say so, and in the log like any other call."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mcp_types as types
import pytest
from mcp import Client, StdioServerParameters
from nats.micro.request import Request

from tests.actors.test_services import SCHEMA, served
from tests.system.conftest import UpProcess, records, start
from tests.system.test_mcp import MODES, connected, text

pytestmark = [pytest.mark.servers, pytest.mark.anyio, pytest.mark.deadline(90)]

AGENTS = Path(__file__).parent / "opened.py"
OPEN = ("adder", "shout", "counter", "failing", "promising", "dying")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def opened(system_folder: Path) -> Iterator[UpProcess]:
    """A stack with tools that are open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OSTINATO_MCP_TOOLS", ",".join((*(f"holder/{name}" for name in OPEN), "guardian/guarded")))
        patch.setenv("OSTINATO_MCP_SERVICES", "*")
        patch.setenv("OSTINATO_TEST_WITNESS", str(system_folder / "opened-witness"))
        up = start(system_folder / "opened", "--agents", str(AGENTS))
    yield up
    assert up.stop() == 0


async def events(up: UpProcess, answer: types.CallToolResult) -> list[str]:
    """The types of what the log holds of a call."""
    thread = (answer.structured_content or {})["thread"]
    shown = records(await asyncio.to_thread(up.cli, "replay", "show", thread, "--json"))
    return [one["kind"] for one in shown]


@MODES
async def test_a_tool_says_what_a_call_would_do(opened: UpProcess, mode: str) -> None:
    async with connected(opened, mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert {f"tool_{name}" for name in OPEN} <= tools.keys()
    assert not {"tool_hidden", "ask_opened-tools"} & tools.keys()
    hints = {name: tools[f"tool_{name}"].annotations for name in ("adder", "counter", "shout")}
    assert {
        name: (one.read_only_hint, one.destructive_hint, one.idempotent_hint) for name, one in hints.items() if one
    } == {"adder": (True, False, True), "counter": (False, False, True), "shout": (False, True, False)}
    assert tools["tool_adder"].input_schema["required"] == ["a", "b"]
    assert "A person must agree" in (tools["tool_shout"].description or "")


@MODES
async def test_a_call_is_a_run_of_one_tool_in_the_log(opened: UpProcess, mode: str) -> None:
    async with connected(opened, mode) as client:
        answer = await client.call_tool("tool_adder", {"a": 12, "b": 34})
        assert (answer.is_error, text(answer)) == (False, "46")
        told = answer.structured_content
        assert (told["status"], told["result"]) == ("finished", 46)
        found = await events(opened, answer)
        assert found.index("command.accepted") < found.index("tool.called") < found.index("tool.returned")
        verified = await asyncio.to_thread(opened.cli, "replay", "verify", told["thread"])
        assert verified.returncode == 0, verified.stdout
        assert told["thread"] not in str((await client.list_resources()).resources)


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("tool_adder", {"a": 1}, "b"),
        ("tool_adder", {"a": 1, "b": "x"}, "b"),
        ("tool_failing", {}, "no luck today"),
        ("tool_promising", {}, "int"),
    ],
)
async def test_what_comes_to_nothing_is_an_error_that_says_why(
    opened: UpProcess, name: str, arguments: dict[str, Any], why: str
) -> None:
    async with connected(opened) as client:
        answer = await client.call_tool(name, arguments)
        assert answer.is_error
        assert why in text(answer)
        assert "tool.failed" in await events(opened, answer)


@pytest.mark.parametrize(
    "name", ["tool_hidden", "tool_calculator", "tool_", "tool_*", "opened-tools", "ask_opened-tools"]
)
async def test_what_is_not_open_is_not_called(opened: UpProcess, name: str) -> None:
    async with connected(opened) as client:
        answer = await client.call_tool(name, {"text": "x"})
        assert answer.is_error
        assert f"there is no tool {name!r}" in text(answer)


def test_who_names_the_model_that_calls_open_tools_calls_no_other_agent_s(opened: UpProcess) -> None:
    body = {"agent": "holder", "text": "{}", "model": "direct", "active_tools": ["hidden"], "wait_s": 20}
    answer = httpx.post(f"{opened.url}/api/runs", json=body, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found"), answer.text


async def test_nothing_is_open_unless_it_is_named(stack: UpProcess) -> None:
    async with connected(stack) as client:
        assert not [tool for tool in (await client.list_tools()).tools if tool.name.startswith("tool_")]
        assert (await client.call_tool("tool_calculator", {"expression": "1"})).is_error


async def test_what_its_agent_has_around_its_tools_is_around_them_here(opened: UpProcess) -> None:
    async with connected(opened) as client:
        answer = await client.call_tool("tool_guarded", {"text": "a secret"})
        assert (answer.is_error, text(answer)) == (False, "A ***")
        refused = await client.call_tool("tool_guarded", {"text": "damn"})
        assert refused.is_error
        assert "guardian does not swear" in text(refused)
        assert "tool.called" not in await events(opened, refused)
        verified = await asyncio.to_thread(opened.cli, "replay", "verify", answer.structured_content["thread"])
        assert verified.returncode == 0, verified.stdout


async def test_what_a_tool_says_meanwhile_is_progress(opened: UpProcess) -> None:
    said: list[str] = []

    async def progress(value: float, total: float | None, message: str | None) -> None:
        said.append(message or "")

    async with connected(opened) as client:
        answer = await client.call_tool("tool_counter", {"up_to": 3}, progress_callback=progress)
    assert said == ['{"at":0}', '{"at":1}', '{"at":2}']
    assert answer.structured_content["result"]["up_to"] == 3


async def test_what_needs_a_person_waits_for_one(opened: UpProcess) -> None:
    async with connected(opened, "legacy") as client:
        waiting = await client.call_tool("tool_shout", {"text": "help"})
        told = waiting.structured_content
        (wait,) = told["waits"]
        assert (told["status"], wait["kind"], wait["tool"]) == ("waiting", "approval", "shout")
        assert "tool.called" not in await events(opened, waiting)
        place = {"thread": told["thread"], "run": told["run"], "effect": wait["effect"]}
        answer = {**place, "answer": "approve", "arguments": wait["arguments"]}
        assert text(await client.call_tool("answer_wait", answer)) == "HELP"
        assert text(await client.call_tool("tool_shout", {"text": "hush"})) == "HUSH"


async def test_a_person_at_the_client_agrees_or_does_not(opened: UpProcess) -> None:
    async def yes(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={})

    async def no(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="decline")

    async with connected(opened, elicitation_callback=yes) as client:
        agreed = await client.call_tool("tool_shout", {"text": "yes"})
        assert (agreed.is_error, agreed.structured_content["result"]) == (False, "YES")
    async with connected(opened, elicitation_callback=no) as client:
        refused = await client.call_tool("tool_shout", {"text": "no"})
        assert refused.is_error
        assert "said no" in text(refused)
        assert "tool.called" not in await events(opened, refused)


async def test_a_call_outlives_its_process(opened: UpProcess) -> None:
    async with connected(opened) as client:
        answer = await client.call_tool("tool_dying", {"name": "phoenix"})
        assert text(answer) == "phoenix came back"
        assert (await events(opened, answer)).count("tool.resumed") == 1


async def test_a_service_is_a_tool_too_while_somebody_serves_it(opened: UpProcess) -> None:
    async def weather(request: Request) -> None:
        await request.respond(json.dumps({"sun in": json.loads(request.data)["what"]}).encode())

    async with connected(opened) as client:
        async with served(opened.nats_url, "weather", weather, effect="pure"):
            tools: dict[str, types.Tool] = {}
            while "tool_weather" not in tools:  # what is served is looked for every few seconds
                tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert tools["tool_weather"].input_schema == SCHEMA
            assert tools["tool_weather"].annotations.read_only_hint is True
            answer = await client.call_tool("tool_weather", {"what": "Rome"})
            assert answer.structured_content["result"] == {"sun in": "Rome"}
            assert "tool.returned" in await events(opened, answer)
        assert (await client.call_tool("tool_weather", {"what": "Rome"})).is_error


async def test_a_process_that_a_client_starts_has_them_too(opened: UpProcess) -> None:
    command = ["-m", "infra.cli.main", "mcp", "--data", str(opened.data)]
    async with Client(StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))) as client:
        assert "tool_adder" in {tool.name for tool in (await client.list_tools()).tools}
        assert text(await client.call_tool("tool_adder", {"a": 1, "b": 2})) == "3"
