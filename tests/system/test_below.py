"""What an agent waits for that another one has asked, over the protocols that show threads and not streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from mcp import Client

from actors.models.nearby import offer_model
from actors.models.provider import ModelCall
from actors.testing import Say, ScriptedModel
from bus.connection import Connection
from schemas.messages import ToolCall
from tests.system.conftest import UpProcess

pytestmark = [pytest.mark.servers, pytest.mark.anyio, pytest.mark.deadline(90)]


def script(call: ModelCall) -> Say:
    """Have another agent work something out, which a person is to approve."""
    last = call.messages[-1]
    if last.role == "tool":
        return last.content
    if call.agent == "chief":
        return ToolCall("k1", "careful_twice", '{"message": "work"}')
    return ToolCall("k1", "calculator", '{"expression": "12 * 34"}')


@pytest.fixture
async def asking(stack: UpProcess) -> AsyncIterator[UpProcess]:
    async with await Connection.open(stack.nats_url, "scripted") as connection:
        await offer_model(connection, "scripted", "1.0.0", ScriptedModel(script))
        yield stack


async def test_it_is_answered_over_http_where_it_is_listed(asking: UpProcess) -> None:
    async with httpx.AsyncClient(base_url=f"{asking.url}/api", timeout=60) as client:
        run = (await client.post("/runs", json={"agent": "chief", "text": "work"})).json()
        thread, waits = f"/threads/{run['thread']}", list[dict[str, Any]]()
        while not waits:  # in the end the test's deadline gives up
            waits = (await client.get(f"{thread}/waits")).json()["data"]
        (wait,) = waits
        assert (wait["tool"], wait["thread"] != run["thread"]) == ("calculator", True)
        wrong = await client.post(f"{thread}/waits/{wait['effect']}/approve", json={"arguments": "{}"})
        assert wrong.status_code in {400, 409}
        given = {"arguments": wait["arguments"]}
        assert (await client.post(f"{thread}/waits/{wait['effect']}/approve", json=given)).status_code == 200
        shown = run
        while shown["status"] not in {"finished", "failed"}:
            shown = (await client.get(f"{thread}/runs/{run['run']}")).json()
        assert (shown["status"], shown["text"]) == ("finished", "408")
        late = await client.post(f"{thread}/waits/{wait['effect']}/approve", json=given)
        assert (late.status_code, late.json()["error"]["code"]) == (409, "not_waiting")


async def test_it_is_answered_over_mcp(asking: UpProcess) -> None:
    async with Client(f"{asking.url}/mcp", mode="legacy") as client:
        told = (await client.call_tool("ask_chief", {"text": "work"})).structured_content
        assert told["status"] == "waiting"
        (wait,) = told["waits"]
        given = {"thread": told["thread"], "run": told["run"], "effect": wait["effect"]}
        given |= {"answer": "approve", "arguments": wait["arguments"]}
        assert (await client.call_tool("answer_wait", given)).structured_content["text"] == "408"
