"""Agents as tools of the Model Context Protocol, with the official client: over HTTP and as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import httpx2
import mcp_types as types
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from tests.system.conftest import UpProcess
from tests.system.test_keys import created, guarded, url

pytestmark = [pytest.mark.servers, pytest.mark.anyio]
__all__ = ["guarded"]

SUM = "What is 12 times 34?"
MODES = pytest.mark.parametrize("mode", ["legacy", "auto"])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def connected(up: UpProcess, mode: Any = "auto", **about: Any) -> AsyncIterator[Client]:
    async with Client(f"{up.url}/mcp", mode=mode, **about) as client:
        yield client


def text(answer: Any) -> str:
    assert [block.type for block in answer.content] == ["text"]
    return str(answer.content[0].text)


@MODES
@pytest.mark.deadline(60)
async def test_an_agent_is_a_tool_that_answers_in_a_thread(stack: UpProcess, mode: str) -> None:
    async with connected(stack, mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"ask_demo", "ask_careful", "answer_wait", "cancel_run"} <= tools.keys()
        assert tools["ask_demo"].annotations.destructive_hint is False
        assert tools["ask_careful"].annotations.destructive_hint is True
        said: list[str] = []

        async def progress(value: float, total: float | None, message: str | None) -> None:
            said.append(message or "")

        answer = await client.call_tool("ask_demo", {"text": SUM}, progress_callback=progress)
        assert "408" in text(answer)
        assert answer.structured_content["status"] == "finished"
        assert "408" in "".join(said)
        thread = answer.structured_content["thread"]
        again = await client.call_tool("ask_demo", {"text": "Hello!", "thread": thread})
        assert again.structured_content["thread"] == thread
        shown = await client.read_resource(f"ostinato://threads/{thread}")
        messages = json.loads(shown.contents[0].text)["messages"]
        assert messages[0]["content"] == SUM
        end = time.monotonic() + 20
        while f"ostinato://threads/{thread}" not in {str(one.uri) for one in (await client.list_resources()).resources}:
            assert time.monotonic() < end


@MODES
@pytest.mark.deadline(60)
async def test_a_call_goes_on_with_its_client_s_trace(stack: UpProcess, tmp_path: Path, mode: str) -> None:
    trace = {"legacy": "1a", "auto": "2b"}[mode] * 16
    async with connected(stack, mode) as client:
        meta: Any = {"traceparent": f"00-{trace}-{'cd' * 8}-01"}
        answer = await client.call_tool("ask_demo", {"text": "Hello!"}, meta=meta)
    thread, file = answer.structured_content["thread"], tmp_path / "spans.json"

    def exported() -> list[dict[str, Any]]:
        stack.cli("replay", "engine", thread)  # waits until it is recorded
        assert stack.cli("replay", "export", "--otel", thread, "-o", str(file)).returncode == 0
        lines = file.read_text(encoding="utf-8").splitlines()
        spans: list[dict[str, Any]] = json.loads(lines[0])["resourceSpans"][0]["scopeSpans"][0]["spans"]
        return spans

    spans = await anyio.to_thread.run_sync(exported)
    assert {span["traceId"] for span in spans} == {trace}
    assert [span["name"] for span in spans if span["parentSpanId"] == "cd" * 8] == ["run demo"]


@MODES
@pytest.mark.deadline(60)
async def test_what_cannot_be_called_is_told_to_the_model(stack: UpProcess, mode: str) -> None:
    async with connected(stack, mode) as client:
        for name, arguments, why in (
            ("ask_nobody", {"text": "x"}, "there is no tool 'ask_nobody'"),
            ("ask_demo", {}, "text"),
            ("ask_demo", {"text": "x", "thread": "no thread"}, "thread"),
            ("ask_demo", {"text": "x", "strange": 1}, "strange"),
            ("answer_wait", {"thread": "t", "run": "r", "effect": "e", "answer": "approve"}, "nothing waits as 'e'"),
            ("answer_wait", {"thread": "\0", "run": "r", "effect": "e", "answer": "approve"}, "cannot be used"),
            ("cancel_run", {"thread": "t", "run": "r"}, "t"),
            ("cancel_run", {"thread": "\0", "run": "r"}, "cannot be used"),
        ):
            answer = await client.call_tool(name, arguments)
            assert answer.is_error, (name, arguments)
            assert why in text(answer)
        with pytest.raises(MCPError):
            await client.read_resource("ostinato://threads/t-nobody")


@pytest.mark.deadline(60)
async def test_a_client_that_cannot_ask_is_told_what_waits_and_brings_the_answer(stack: UpProcess) -> None:
    async with connected(stack, "legacy") as client:
        waiting = await client.call_tool("ask_careful", {"text": SUM})
        told = waiting.structured_content
        assert told["status"] == "waiting"
        (wait,) = told["waits"]
        assert (wait["kind"], wait["tool"]) == ("approval", "calculator")
        assert wait["arguments"] in text(waiting)
        place = {"thread": told["thread"], "run": told["run"], "effect": wait["effect"]}
        other = await client.call_tool("answer_wait", {**place, "answer": "approve", "arguments": "{}"})
        assert other.is_error
        answer = {**place, "answer": "approve", "arguments": wait["arguments"]}
        assert "408" in text(await client.call_tool("answer_wait", answer))
        assert (await client.call_tool("answer_wait", answer)).is_error


@pytest.mark.deadline(60)
async def test_a_run_that_nobody_began_is_not_waited_for(stack: UpProcess) -> None:
    async with connected(stack, "legacy") as client:
        told = (await client.call_tool("ask_careful", {"text": SUM})).structured_content
        (wait,) = told["waits"]
        answer = {
            "thread": told["thread"],
            "effect": wait["effect"],
            "answer": "approve",
            "arguments": wait["arguments"],
        }
        mistaken = await client.call_tool("answer_wait", {**answer, "run": "r-typo"})
        assert "has no run 'r-typo'" in text(mistaken)
        assert "408" in text(await client.call_tool("answer_wait", {**answer, "run": told["run"]}))
    async with connected(stack) as client:
        state = {"request_state": "t-nobody r-nobody", "input_responses": {}, "allow_input_required": True}
        nobody = await client.session.call_tool("ask_demo", {"text": "x"}, **state)
        assert "has no run 'r-nobody'" in text(nobody)


@pytest.mark.deadline(60)
async def test_a_client_with_a_person_puts_the_question_and_the_call_goes_on(stack: UpProcess) -> None:
    asked: list[str] = []

    async def yes(context: Any, params: Any) -> types.ElicitResult:
        asked.append(params.message)
        return types.ElicitResult(action="accept", content={"answer": True} if "data" in params.message else {})

    async def no(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="decline")

    async with connected(stack, elicitation_callback=yes) as client:
        assert "408" in text(await client.call_tool("ask_careful", {"text": SUM}))
        assert "408" in text(await client.call_tool("ask_leaving", {"text": SUM}))
    assert len(asked) == 2
    assert all("12 * 34" in one for one in asked)
    async with connected(stack, elicitation_callback=no) as client:
        refused = await client.call_tool("ask_careful", {"text": SUM})
        assert refused.structured_content["status"] == "finished"
        thread = refused.structured_content["thread"]
        shown = json.loads((await client.read_resource(f"ostinato://threads/{thread}")).contents[0].text)
        assert "said no" in str(shown["messages"])


@pytest.mark.deadline(60)
async def test_a_run_that_waits_is_cancelled_by_its_tool(stack: UpProcess) -> None:
    async with connected(stack, "legacy") as client:
        told = (await client.call_tool("ask_careful", {"text": SUM})).structured_content
        ended = await client.call_tool("cancel_run", {"thread": told["thread"], "run": told["run"]})
        assert not ended.is_error
        again = await client.call_tool("cancel_run", {"thread": told["thread"], "run": told["run"]})
        assert "not under way" in text(again)


@pytest.mark.deadline(90)
async def test_it_runs_as_a_process_that_a_client_starts(stack: UpProcess) -> None:
    command = ["-m", "infra.cli.main", "mcp", "--data", str(stack.data)]
    async with Client(StdioServerParameters(command=sys.executable, args=command)) as client:
        assert "ask_demo" in {tool.name for tool in (await client.list_tools()).tools}
        assert "408" in text(await client.call_tool("ask_demo", {"text": SUM}))


@MODES
@pytest.mark.deadline(90)
async def test_a_client_is_told_of_other_agents_when_the_stack_has_started_again(stack: UpProcess, mode: str) -> None:
    changed = anyio.Event()

    async def heard(message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            changed.set()

    command = ["-m", "infra.cli.main", "mcp", "--data", str(stack.data)]
    started = StdioServerParameters(command=sys.executable, args=command)
    runtime = stack.data / "runtime.json"
    before = await anyio.to_thread.run_sync(runtime.read_bytes)
    after = json.loads(before)
    after["served"].append("agent/newcomer")
    async with Client(started, mode=mode, message_handler=heard) as client:
        assert "ask_newcomer" not in {tool.name for tool in (await client.list_tools()).tools}
        assert client.server_capabilities.tools.list_changed
        try:
            if mode == "legacy":
                await anyio.to_thread.run_sync(runtime.write_bytes, json.dumps(after).encode())
                await changed.wait()
            else:
                async with client.listen(tools_list_changed=True) as told:
                    await anyio.to_thread.run_sync(runtime.write_bytes, json.dumps(after).encode())
                    await anext(aiter(told))
            assert "ask_newcomer" in {tool.name for tool in (await client.list_tools()).tools}
        finally:
            await anyio.to_thread.run_sync(runtime.write_bytes, before)


async def test_who_listens_over_http_is_told_of_tools_alone(stack: UpProcess) -> None:
    async with (
        connected(stack) as client,
        client.listen(tools_list_changed=True, resources_list_changed=True) as told,
    ):
        assert told.honored.tools_list_changed
        assert not told.honored.resources_list_changed
        assert "ask_demo" in {tool.name for tool in (await client.list_tools()).tools}


@asynccontextmanager
async def keyed(up: UpProcess, tenant: str, *limits: str) -> AsyncIterator[Client]:
    key = created(up, "--tenant", tenant, *limits)["key"]
    headers = {"authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{url(up)}/mcp", http_client=http)) as client,
    ):
        yield client


@pytest.mark.deadline(90)
async def test_a_key_shows_its_tenants_threads_alone(guarded: UpProcess) -> None:
    async with keyed(guarded, "mcp-acme") as ours, keyed(guarded, "mcp-umbrella") as theirs:
        answer = await ours.call_tool("ask_demo", {"text": "Hello!"})
        resource = f"ostinato://threads/{answer.structured_content['thread']}"
        messages = []
        while len(messages) < 2:  # the record is a moment behind; in the end the test's deadline gives up
            messages = json.loads((await ours.read_resource(resource)).contents[0].text)["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"]
        with pytest.raises(MCPError):
            await theirs.read_resource(resource)
        assert resource not in {str(one.uri) for one in (await theirs.list_resources()).resources}


def test_nobody_without_a_key_comes_in(guarded: UpProcess) -> None:
    assert httpx.post(f"{url(guarded)}/mcp", json={}).status_code == 401


@pytest.mark.parametrize(
    ("body", "number"),
    [
        (b"{", -32700),
        (b"\xff", -32700),
        (b"[]", -32600),
        (b'{"jsonrpc": "2.0", "id": 1}', -32600),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": 3}', -32600),
    ],
)
def test_a_body_that_is_no_message_is_told_so_in_a_line(stack: UpProcess, body: bytes, number: int) -> None:
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    answer = httpx.post(f"{stack.url}/mcp", content=body, headers=headers, timeout=60)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], answer.json()["id"]) == (400, number, None)
    assert "\n" not in error["message"]
    assert len(error["message"]) < 200


@pytest.mark.parametrize("params", [{}, {"name": 3}, {"name": "ask_demo", "arguments": []}])
def test_parameters_that_do_not_fit_are_told_so_in_a_line(stack: UpProcess, params: dict[str, Any]) -> None:
    headers = {"accept": "application/json, text/event-stream"}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    answer = httpx.post(f"{stack.url}/mcp", json=call, headers=headers, timeout=60)
    (data,) = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith(("data: {", "{"))]
    error = json.loads(data)["error"]
    assert error["code"] in {-32602, -32600}
    assert "\n" not in error["message"]
    assert len(error["message"]) < 200


def test_a_page_elsewhere_may_not_ask_a_port_that_is_open_to_all(stack: UpProcess) -> None:
    port = stack.url.rpartition(":")[2]
    headers = {"origin": "http://evil.example", "host": f"evil.example:{port}"}
    answer = httpx.post(f"{stack.url}/mcp", json={}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["data"]["code"]) == (403, "unknown_host")


async def many(ask: Callable[[], Awaitable[object]]) -> None:
    for _ in range(5):
        await ask()


@pytest.mark.deadline(90)
async def test_a_key_that_comes_too_often_is_told_when_to_come_again(guarded: UpProcess) -> None:
    async with keyed(guarded, "mcp-slow", "--requests-per-minute", "4") as client:
        with pytest.raises(MCPError) as refused:
            await many(client.list_resources)
    assert (refused.value.error.code, refused.value.error.data["code"]) == (-32000, "rate_limit_exceeded")
    assert refused.value.error.data["retryAfterMs"] > 0


class Held:
    """A run that cannot end while the block goes on: the worker that its answer comes from stands still."""

    def __init__(self, up: UpProcess) -> None:
        self.up = up
        self.worker = up.pid("worker-0")
        self.before = set[str]()

    def __enter__(self) -> Held:
        self.before = {one["run"] for one in self._runs()}
        os.kill(self.worker, signal.SIGSTOP)
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.worker, signal.SIGCONT)

    def _runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = httpx.get(f"{self.up.url}/api/runs", params={"agent": "rambler"}).json()["data"]
        return found

    def shown(self, *statuses: str) -> dict[str, Any]:
        """The run, when it stands in one of some ways."""
        end = time.monotonic() + 30
        while not (found := [one for one in self._runs() if one["run"] not in self.before]):
            assert time.monotonic() < end, "no run was begun"
        path = f"{self.up.url}/api/threads/{found[0]['thread']}/runs/{found[0]['run']}"
        while (shown := httpx.get(path).json())["status"] not in statuses:
            assert time.monotonic() < end, shown
        return dict(shown)

    async def until(self, *statuses: str) -> dict[str, Any]:
        return await anyio.to_thread.run_sync(self.shown, *statuses)


RAMBLE = {"text": "Go on."}


async def is_ended_by_cancelling(client: Client, up: UpProcess) -> None:
    with Held(up) as held:
        async with anyio.create_task_group() as calling:
            calling.start_soon(client.call_tool, "ask_rambler", RAMBLE)
            await held.until("running")
            calling.cancel_scope.cancel()
        ended = await held.until("aborted")
    assert "an MCP client cancelled the call" in ended["problem"]["message"]


@MODES
@pytest.mark.deadline(90)
async def test_a_call_that_is_cancelled_over_http_ends_its_run(stack: UpProcess, mode: str) -> None:
    async with connected(stack, mode) as client:
        await is_ended_by_cancelling(client, stack)
        assert "408" in text(await client.call_tool("ask_demo", {"text": SUM}))


@pytest.mark.deadline(90)
async def test_a_call_that_is_cancelled_on_standard_input_ends_its_run(stack: UpProcess) -> None:
    command = ["-m", "infra.cli.main", "mcp", "--data", str(stack.data)]
    async with Client(StdioServerParameters(command=sys.executable, args=command)) as client:
        await is_ended_by_cancelling(client, stack)


OLD = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}


async def cancel_all(base: str, session: dict[str, str]) -> None:
    """Cancel whatever calls a session has, as a client before 2026-07-28 does."""
    async with httpx.AsyncClient(headers={**OLD, **session}) as http:
        for number in range(20):
            told = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}}
            assert (await http.post(f"{base}/mcp", json=told)).status_code == 202


@pytest.mark.parametrize("session", [{}, {"mcp-session-id": "somebody-else"}], ids=["none", "another"])
@pytest.mark.deadline(90)
async def test_nobody_cancels_the_call_of_another_client(stack: UpProcess, session: dict[str, str]) -> None:
    """Every client numbers its requests from the beginning: the number alone says nothing."""
    async with connected(stack, "legacy") as client, anyio.create_task_group() as calling:
        with Held(stack) as held:
            calling.start_soon(client.call_tool, "ask_rambler", RAMBLE)
            await held.until("running")
            await cancel_all(stack.url, session)
        await held.until("finished")


@pytest.mark.deadline(90)
async def test_a_connection_that_breaks_says_nothing_before_2026(stack: UpProcess) -> None:
    told = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "ask_rambler", "arguments": RAMBLE}}
    with Held(stack) as held:
        async with (
            httpx.AsyncClient(headers=OLD, timeout=30) as http,
            http.stream("POST", f"{stack.url}/mcp", json=told),
        ):
            await held.until("running")
    await held.until("finished")
