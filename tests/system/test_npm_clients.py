"""Clients from npm against the whole stack: what they saw, and what the log has."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from actors.models.nearby import offer_model
from actors.models.provider import ModelCall
from actors.runtime.context import SystemChance, SystemClock, SystemIds
from actors.testing import Say, ScriptedModel
from bus.connection import Connection
from infra.bridge.app import Bridge
from infra.bridge.telling import counter
from infra.privacy import known_master
from infra.readback import LateStore
from schemas import codec
from schemas.live import Frame
from schemas.messages import ToolCall
from schemas.runs import Problem
from tests.clients.node import CLIENTS, node, node_path
from tests.infra.bridge.doors import Scripted, everything
from tests.infra.bridge.test_telling import tried_again, usual
from tests.system.conftest import UpProcess
from tests.system.test_record import wait_until_recorded

pytestmark = [pytest.mark.servers, pytest.mark.anyio, pytest.mark.deadline(150)]

ROOT = Path(__file__).parents[2]
SUM = "What is 12 times 34?"
FOREIGN = "Grüße, 世界! 👩\u200d🚀 ok"
CALCULATOR = {
    "name": "calculator",
    "description": "Work out an arithmetic expression.",
    "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
}


def script(call: ModelCall) -> Say:
    """Say what was said; delegate and then fail where that is wanted."""
    last = call.messages[-1]
    if call.agent in {"head", "chief", "careful_twice", "both"}:
        return asking_below(call)
    if last.role == "tool":
        return Problem(kind="engine", message="the engine is gone")
    if last.content == "delegate" and call.tools:
        return ToolCall("k1", "worker", '{"message": "work"}')
    return f"says {last.content}"


def asking_below(call: ModelCall) -> Say:
    """Have another agent work out all that the user says, each with a call that a person is to approve."""
    last = call.messages[-1]
    if last.role == "tool":
        return f"{call.agent}: {last.content}"
    if call.agent in {"head", "chief"}:
        asked = "chief" if call.agent == "head" else "careful_twice"
        return ToolCall("k1", asked, codec.encode({"message": last.content}).decode())
    if call.agent == "both":
        own = ToolCall("k2", "calculator", '{"expression": "5 + 6"}')
        return (ToolCall("k1", "careful_twice", codec.encode({"message": last.content}).decode()), own)
    sums = last.content.split(", ")
    # ids of calls as the other agent's model gives them, too
    return tuple(
        ToolCall(f"k{at}", "calculator", codec.encode({"expression": one}).decode()) for at, one in enumerate(sums, 1)
    )


@pytest.fixture
async def model(stack: UpProcess) -> AsyncIterator[ScriptedModel]:
    """The model that `worker` and `boss` ask."""
    scripted = ScriptedModel(script)
    async with await Connection.open(stack.nats_url, "scripted") as connection:
        await offer_model(connection, "scripted", "1.0.0", scripted)
        yield scripted


def parts(message: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [part for part in message["parts"] if part["type"] == kind]


def text_of(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in parts(message, "text"))


def chat_url(up: UpProcess, agent: str) -> str:
    return f"{up.url}/api/agents/{agent}/chat"


# docs/clients.md


async def test_every_block_of_the_page_on_clients_runs(stack: UpProcess) -> None:
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8").replace("http://127.0.0.1:8000", stack.url)
    found = re.findall(r"```(js|py)\n(.*?)```", page, re.DOTALL)
    assert [kind for kind, _ in found] == ["py", "js", "js", "js"]
    printed = [await (run_python if kind == "py" else run_js)(block) for kind, block in found]
    assert printed[0].count("408") == 2
    assert "408" in printed[1]
    assert printed[2].split()[-2:] == ["text", "2"]
    assert "tool-calculator" in printed[2]
    assert "408" in printed[3]


async def run_js(source: str) -> str:
    return await run_block(node_path(), "--input-type=module", "-e", source)


async def run_python(source: str) -> str:
    return await run_block(sys.executable, "-c", source)


async def run_block(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=CLIENTS, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            told, problem = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, problem.decode()
    return told.decode()


# @ai-sdk/openai-compatible


async def test_a_model_s_text_is_the_same_streamed_and_whole(stack: UpProcess) -> None:
    for model in ("ostinato-mini", "agent/demo"):
        told = await node("models.mjs", "text", baseURL=f"{stack.url}/v1", model=model, prompt=SUM)
        assert told["said"] == told["whole"] != ""
        assert told["reasons"] == ["stop", "stop"]
        whole, streamed = told["usage"]
        assert whole["totalTokens"] == streamed["totalTokens"] > 0
        assert "error" not in told["types"]


async def test_its_tools_are_called_with_whole_arguments(stack: UpProcess) -> None:
    told = await node("models.mjs", "tools", baseURL=f"{stack.url}/v1", model="ostinato-mini", prompt=SUM)
    assert told["used"] == ["12 * 34"]
    (call,) = told["calls"]
    assert call["input"] == {"expression": "12 * 34"}
    assert not call.get("invalid")
    assert told["parts"].count("tool-input-start") == told["parts"].count("tool-input-end") == 1
    assert "77" in told["text"]


@asynccontextmanager
async def listening(door: Scripted) -> AsyncIterator[str]:
    """Have a bridge that answers as a script says listen on a port."""
    server = uvicorn.Server(uvicorn.Config(door.application, port=0, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    (port,) = [listener.getsockname()[1] for one in server.servers for listener in one.sockets]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


async def test_reasoning_and_parallel_calls_reach_it_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(Scripted(monkeypatch, everything)) as url:
        told = await node("models.mjs", "once", baseURL=f"{url}/v1", model="m", prompt="hi")
    assert (told["reasoning"], told["text"], told["reason"]) == ("hmm", "I look.", "tool-calls")
    assert [(call["toolCallId"], call["input"]) for call in told["calls"]] == [("c0", {"at": "sky"}), ("c1", {})]
    assert not any(call.get("invalid") for call in told["calls"])


async def test_reasoning_calls_and_steps_that_are_tried_again_reach_both_interfaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stories = [usual, usual, tried_again, tried_again]

    async def follow(*given: Any) -> AsyncIterator[Frame]:
        for frame in stories.pop(0)().frames:
            yield frame

    monkeypatch.setattr(counter, "follow", follow)
    async with listening(Scripted(monkeypatch, everything)) as url:
        api, ag_ui = f"{url}/api/chat", f"{url}/ag-ui/demo"
        thought = await node("aisdk.mjs", "read", api=api, id="a", text="hi")
        events = await node("agui.mjs", "fail", url=ag_ui, threadId="a", text="hi")
        again = await node("aisdk.mjs", "read", api=api, id="b", text="hi")
        reset = await node("agui.mjs", "fail", url=ag_ui, threadId="b", text="hi")
    kinds = [part["type"] for part in thought["message"]["parts"]]
    assert kinds == ["step-start", "reasoning", "text", "tool-look", "tool-look", "step-start", "text"]
    assert [part["output"] for part in parts(thought["message"], "tool-look")] == [[0], [1]]
    assert [part["text"] for part in parts(thought["message"], "reasoning")] == ["hmm"]
    assert [part["type"] for part in again["message"]["parts"]] == ["step-start", "text"]
    assert text_of(again["message"]) == "done"
    for told in (events, reset):
        assert (told["error"], told["warnings"]) == (None, [])
        assert told["events"][-1]["type"] == "RUN_FINISHED"
    said = [event["delta"] for event in events["events"] if event["type"] == "REASONING_MESSAGE_CONTENT"]
    assert said == ["hm", "m"]


async def test_an_object_is_of_its_schema_and_a_refusal_an_error(stack: UpProcess) -> None:
    base = f"{stack.url}/v1"
    told = await node("models.mjs", "object", baseURL=base, model="ostinato-mini", prompt="Who is there?")
    assert told["object"]["name"] in {"Ann", "Bob"}
    refused = await node("models.mjs", "refused", baseURL=base, model="nobody", prompt="hi")
    assert (refused["error"], refused["status"]) == ("AI_APICallError", 404)


async def test_an_error_in_mid_stream_reaches_the_client(stack: UpProcess, model: ScriptedModel) -> None:
    told = await node("models.mjs", "broken", baseURL=f"{stack.url}/v1", model="agent/boss", prompt="delegate")
    assert "error" in told["parts"] or told["errors"]
    assert any("the engine is gone" in error for error in told["errors"])


# the chats of `ai`


async def test_a_chat_shows_its_steps_and_is_stored_as_it_was_shown(stack: UpProcess) -> None:
    api = chat_url(stack, "demo")
    told = await node("aisdk.mjs", "ask", api=api, id="NpmAsk1", text=SUM, more=["What is 5 plus 6?"])
    question, first, _, second = told["messages"]
    assert (told["status"], told["error"], told["finishReason"]) == ("ready", None, "stop")
    (call,) = parts(first, "tool-calculator")
    assert (call["state"], call["input"], call["output"]) == ("output-available", {"expression": "12 * 34"}, "408")
    assert "408" in text_of(first)
    assert "11" in text_of(second)
    assert len(parts(first, "step-start")) == first["metadata"]["steps"] == 2
    assert first["metadata"]["usage"]["outputTokens"] > 0
    stored = told["stored"]
    assert [one["id"] for one in stored] == [one["id"] for one in told["messages"]]
    assert [stored[1], stored[3]] == [first, second]
    assert text_of(stored[0]) == text_of(question)


@pytest.mark.parametrize("approved", [True, False])
async def test_an_approval_is_given_or_refused_in_the_chat(stack: UpProcess, approved: bool) -> None:
    given = {"id": f"npm-{approved}".lower(), "text": SUM, "approved": approved}
    if not approved:
        given["reason"] = "not today"
    told = await node("aisdk.mjs", "approve", api=chat_url(stack, "careful"), **given)
    waiting = told["waits"]["messages"][-1]
    (asked,) = parts(waiting, "tool-calculator")
    assert asked["state"] == "approval-requested"
    assert told["resumed"] == 204
    assert told["waits"]["stored"][-1] == waiting
    _, answer = told["messages"]
    assert answer["id"] == waiting["id"]
    (call,) = parts(answer, "tool-calculator")
    assert call["approval"]["approved"] is approved
    assert call["state"] == ("output-available" if approved else "output-denied")
    assert ("408" in text_of(answer)) is approved
    assert told["stored"][-1] == answer


@pytest.mark.parametrize("approved", [True, False])
async def test_what_another_agent_asks_is_answered_in_the_chat(
    stack: UpProcess, model: ScriptedModel, approved: bool
) -> None:
    given = {"id": f"npm-below-{approved}".lower(), "text": "12 * 34", "approved": approved}
    given |= {} if approved else {"reason": "not today"}
    told = await node("aisdk.mjs", "approve", api=chat_url(stack, "chief"), **given)
    waiting = told["waits"]["messages"][-1]
    (above,), (asked,) = parts(waiting, "tool-careful_twice"), parts(waiting, "tool-calculator")
    assert (above["state"], asked["state"]) == ("input-available", "approval-requested")
    assert asked["input"] == {"expression": "12 * 34"}
    assert asked["toolCallId"] != above["toolCallId"]
    assert told["resumed"] == 204
    assert told["waits"]["stored"][-1] == waiting
    _, answer = told["messages"]
    (above,), (asked,) = parts(answer, "tool-careful_twice"), parts(answer, "tool-calculator")
    assert above["state"] == "output-available"
    assert asked["state"] == ("output-available" if approved else "output-denied")
    assert ("408" in text_of(answer)) is approved
    assert told["stored"][-1] == answer


async def test_its_own_questions_and_another_agent_s_are_answered_together(
    stack: UpProcess, model: ScriptedModel
) -> None:
    """The client sends by itself once those of the last step are answered: the other agent's."""
    given = {"id": "npm-both", "text": "12 * 34, 1 + 1", "approved": True}
    told = await node("aisdk.mjs", "approveAll", api=chat_url(stack, "both"), **given)
    assert told["asked"] == 3
    assert told["status"] == "ready"
    _, answer = told["messages"]
    assert sorted(part["output"] for part in parts(answer, "tool-calculator")) == ["11", "2", "408"]
    assert told["stored"][-1] == answer


@pytest.mark.parametrize(("agent", "output"), [("lent", "77"), ("leaving", True)])
async def test_a_client_carries_a_call_out_or_gives_a_tool_its_data(stack: UpProcess, agent: str, output: Any) -> None:
    api = chat_url(stack, agent)
    told = await node("aisdk.mjs", "provide", api=api, id=f"provide-{agent}", text=SUM, output=output)
    assert [call["toolName"] for call in told["called"]] == ["calculator"]
    (asked,) = parts(told["waits"][-1], "data-waiting")
    assert asked["data"]["kind"] == ("caller" if agent == "lent" else "data")
    (call,) = parts(told["messages"][-1], "tool-calculator")
    expected = "77" if agent == "lent" else "408"
    assert (call["state"], call["output"]) == ("output-available", expected)
    assert expected in text_of(told["messages"][-1])


async def test_a_chat_that_is_stopped_ends_its_run(stack: UpProcess, model: ScriptedModel) -> None:
    model.hold = asyncio.Event()
    told = await node("aisdk.mjs", "stop", api=chat_url(stack, "worker"), id="npm-stop", text="one two three")
    assert (told["stopped"], told["resumed"], told["isError"]) == (204, 204, False)
    assert text_of(told["messages"][-1]) == "says"
    assert model.aborted


async def test_who_comes_back_hears_all_of_it_and_the_same_bytes(stack: UpProcess, model: ScriptedModel) -> None:
    model.hold = asyncio.Event()
    on = {"resuming": releasing(model)}
    api = chat_url(stack, "worker")
    told = await node("aisdk.mjs", "resume", on, api=api, id="NpmResume", text=FOREIGN)
    assert text_of(told["partial"][-1]) == "says"
    for messages in (told["messages"], told["opened"]):
        assert [one["role"] for one in messages] == ["user", "assistant"]
        assert text_of(messages[-1]) == f"says {FOREIGN}"
    assert told["same"]
    assert told["bytes"].startswith('data: {"type":"start"')
    assert told["bytes"].endswith('data: {"type":"finish-step"}\n\n' + finish(told) + "data: [DONE]\n\n")
    assert len(model.calls) == 1


def finish(told: dict[str, Any]) -> str:
    (line,) = [line for line in told["bytes"].split("\n\n") if line.startswith('data: {"type":"finish"')]
    return f"{line}\n\n"


async def eventually(there: Callable[[], bool]) -> None:
    for _ in range(1000):
        if there():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came")


def releasing(model: ScriptedModel) -> Callable[[], None]:
    def release() -> None:
        assert model.hold is not None
        model.hold.set()

    return release


async def test_a_bridge_that_knows_nothing_tells_it_from_the_log(stack: UpProcess, model: ScriptedModel) -> None:
    """As after a restart: the run went on, and its stream begins again."""
    model.hold = asyncio.Event()
    api, chat = chat_url(stack, "worker"), "npm-restart"
    asking = asyncio.create_task(node("aisdk.mjs", "read", api=api, id=chat, text=FOREIGN))
    await eventually(lambda: bool(model.calls))
    master = await asyncio.to_thread(known_master, stack.data)
    nothing: Any = None
    async with (
        await Connection.open(stack.nats_url, "bridge") as connection,
        LateStore(stack.postgres_url, master) as late,
    ):
        system = {"ids": SystemIds(), "clock": SystemClock(), "chance": SystemChance()}
        about = {"models": (), "agents": ("worker",), "state": nothing}
        reached = {"connection": connection, "read_back": late.read_back, "store": late.opened}
        other = Bridge(**reached, **system, **about, tenant="default")
        foreign = httpx.ASGITransport(Bridge(**reached, **system, **about, tenant="stranger").application())
        transport = httpx.ASGITransport(other.application())
        async with httpx.AsyncClient(transport=transport, base_url="http://door", timeout=60) as client:
            await asyncio.to_thread(wait_until_recorded, stack)
            seen = await client.get(f"/api/chat/{chat}/messages")
            resuming = asyncio.create_task(client.get(f"/api/chat/{chat}/stream"))
            await eventually(lambda: len(other.under_way) == 1)
            model.hold.set()
            resumed = await resuming
            stored = (await client.get(f"/api/chat/{chat}/messages")).json()
        async with httpx.AsyncClient(transport=foreign, base_url="http://door", timeout=60) as stranger:
            assert (await stranger.get(f"/api/chat/{chat}/messages")).json() == []
            assert (await stranger.get(f"/api/chat/{chat}/stream")).status_code == 204
            assert (await stranger.post(f"/api/chat/{chat}/stop")).status_code == 204
    told = await asking
    assert [one["role"] for one in seen.json()] == ["user"]
    assert resumed.headers["x-vercel-ai-ui-message-stream"] == "v1"
    lines = resumed.text.split("\n\n")
    assert lines[0] == "data: " + httpx.Response(200, json=told["chunks"][0]).text
    assert lines[-2:] == ["data: [DONE]", ""]
    assert text_of(told["message"]) == text_of(stored[-1]) == f"says {FOREIGN}"


async def test_a_run_that_fails_in_the_middle_closes_what_is_open_and_says_why(
    stack: UpProcess, model: ScriptedModel
) -> None:
    told = await node("aisdk.mjs", "ask", api=chat_url(stack, "boss"), id="npm-fail", text="delegate")
    assert told["status"] == "error"
    assert told["isError"]
    assert "the engine is gone" in told["error"]
    (call,) = parts(told["messages"][-1], "tool-worker")
    assert call["state"] == "output-available"


async def test_an_answer_is_made_again_under_another_id(stack: UpProcess, model: ScriptedModel) -> None:
    told = await node("aisdk.mjs", "regenerate", api=chat_url(stack, "worker"), id="npm-again", text="hello")
    question, answer = told["messages"]
    assert text_of(answer) == text_of(told["first"]) == f"says {text_of(question)}"
    assert answer["id"] != told["first"]["id"]


# @ag-ui/client


async def test_an_ag_ui_client_runs_an_agent_and_reads_its_thread_again(stack: UpProcess) -> None:
    url = f"{stack.url}/ag-ui/demo"
    told = await node("agui.mjs", "ask", url=url, threadId="ag-ask", text=SUM, more=["What is 5 plus 6?"])
    assert told["warnings"] == []
    first, second = told["runs"]
    kinds = [event["type"] for event in first["events"]]
    assert kinds[:3] == ["RUN_STARTED", "STATE_SNAPSHOT", "STEP_STARTED"]
    assert first["events"][0]["runId"] == first["events"][-1]["runId"] == "their-run"
    assert first["events"][0]["protocolVersion"] == "1.0"
    assert kinds[-1] == "RUN_FINISHED"
    assert "408" in first["result"]
    assert "11" in second["result"]
    roles = ["user", "assistant", "tool", "assistant"]
    assert [one["role"] for one in told["messages"]] == roles * 2
    assert told["opened"] == told["messages"]


@pytest.mark.parametrize("approved", [True, False])
async def test_an_interrupt_is_answered_in_the_next_run(stack: UpProcess, approved: bool) -> None:
    answer = {"status": "resolved", "payload": {"approved": approved, "reason": "not today"}}
    given = {"threadId": f"ag-{approved}".lower(), "text": SUM, "answer": answer}
    told = await node("agui.mjs", "interrupt", url=f"{stack.url}/ag-ui/careful", **given)
    (asked,) = told["open"]
    assert asked["reason"] == "tool_approval"
    assert told["left"] == told["warnings"] == []
    result = next(one for one in told["messages"] if one["role"] == "tool")
    assert (result["content"] == "408") is approved
    assert told["second"]["events"][-1]["outcome"] == {"type": "success"}


async def test_an_interrupt_of_another_agent_is_answered_in_the_next_run(
    stack: UpProcess, model: ScriptedModel
) -> None:
    answer = {"status": "resolved", "payload": {"approved": True}}
    given = {"threadId": "ag-below", "text": "12 * 34, 5 + 6", "answer": answer}
    told = await node("agui.mjs", "interrupt", url=f"{stack.url}/ag-ui/chief", **given)
    assert [one["reason"] for one in told["open"]] == ["tool_approval", "tool_approval"]
    assert told["left"] == told["warnings"] == []
    assert {one["content"] for one in told["messages"] if one["role"] == "tool"} >= {"408", "11"}
    assert told["second"]["events"][-1]["outcome"] == {"type": "success"}
    url, asked = f"{stack.url}/ag-ui/chief", {"threadId": "ag-below", "runId": "r", "messages": []}
    async with httpx.AsyncClient(timeout=60) as client:
        again = (await client.post(url, json=asked)).text
    assert again.count('"role":"tool"') == 3


async def test_who_says_something_else_ends_the_run_that_waits(stack: UpProcess) -> None:
    async def said(url: str, body: dict[str, Any]) -> str:
        async with httpx.AsyncClient(timeout=60) as client:
            return (await client.post(url, json=body)).text

    url, asked = f"{stack.url}/ag-ui/careful", {"threadId": "ag-instead", "runId": "r"}
    question = {"id": "u1", "role": "user", "content": SUM}
    assert '"interrupt"' in await said(url, {**asked, "messages": [question]})
    other = {"id": "u2", "role": "user", "content": "Hello!"}
    assert '"success"' in await said(url, {**asked, "messages": [question, other]})
    chat: Any = {"id": "npm-instead"}
    chat["messages"] = [{"id": "u1", "role": "user", "parts": [{"type": "text", "text": SUM}]}]
    assert "tool-approval-request" in await said(chat_url(stack, "careful"), chat)
    waiting = {"type": "tool-calculator", "toolCallId": "c", "state": "approval-requested", "approval": {"id": "e"}}
    chat["messages"] += [
        {"id": "msg_x", "role": "assistant", "parts": [waiting]},
        {"id": "u2", "role": "user", "parts": [{"type": "text", "text": "Hello!"}]},
    ]
    assert '"finishReason":"stop"' in await said(chat_url(stack, "careful"), chat)


async def test_of_two_answers_to_one_question_the_first_counts(stack: UpProcess) -> None:
    api, asked = chat_url(stack, "careful"), {"role": "user", "id": "u1", "parts": [{"type": "text", "text": SUM}]}
    async with httpx.AsyncClient(timeout=60) as client:
        first = await client.post(api, json={"id": "npm-once", "messages": [asked]})
        (effect,) = re.findall(r'"approvalId":"([^"]*)"', first.text)
        part = {"type": "tool-calculator", "toolCallId": "c", "state": "approval-responded"}
        answer = {"role": "assistant", "id": "msg_x", "parts": [part | {"approval": {"id": effect, "approved": True}}]}
        body = {"id": "npm-once", "messages": [asked, answer]}
        answers = await asyncio.gather(*(client.post(api, json=body) for _ in range(4)))
        late = await client.post(api, json=body)
    taken = [one for one in answers if one.status_code == 200]
    assert len(taken) == 1
    assert taken[0].text.count('"tool-output-available"') == 1
    assert all("error" in one.json() for one in answers if one is not taken[0])
    assert (late.status_code, late.json()["error"]["code"]) == (409, "not_waiting")


async def test_what_waits_two_agents_below_is_answered_after_kill_9(stack: UpProcess, model: ScriptedModel) -> None:
    api, asked = chat_url(stack, "head"), {"role": "user", "id": "u1", "parts": [{"type": "text", "text": "12 * 34"}]}
    async with httpx.AsyncClient(timeout=60) as client:
        first = await client.post(api, json={"id": "npm-deep", "messages": [asked]})
        (effect,) = re.findall(r'"approvalId":"([^"]*)"', first.text)
        os.kill(await asyncio.to_thread(stack.pid, "agents-0"), signal.SIGKILL)
        part = {"type": "tool-calculator", "toolCallId": effect, "state": "approval-responded"}
        answer = {"role": "assistant", "id": "msg_x", "parts": [part | {"approval": {"id": effect, "approved": True}}]}
        second = await client.post(api, json={"id": "npm-deep", "messages": [asked, answer]})
        again = await client.post(api, json={"id": "npm-deep", "messages": [asked, answer]})
        stored = (await client.get(f"{stack.url}/api/chat/npm-deep/messages")).json()
    assert second.status_code == 200
    assert second.text.count(f'"toolCallId":"{effect}","output":"408"') == 1
    assert "head: chief: careful_twice: 408" in text_of(stored[-1])
    assert [part["state"] for part in parts(stored[-1], "tool-calculator")] == ["output-available"]
    assert (again.status_code, again.json()["error"]["code"]) == (409, "not_waiting")


async def test_a_suspended_tool_s_data_is_an_interrupt_too(stack: UpProcess) -> None:
    answer = {"status": "resolved", "payload": True}
    url = f"{stack.url}/ag-ui/leaving"
    told = await node("agui.mjs", "interrupt", url=url, threadId="ag-leave", text=SUM, answer=answer)
    (asked,) = told["open"]
    assert asked["reason"] == "input_required"
    assert asked["responseSchema"] == {"type": "boolean"}
    custom = [event for event in told["first"]["events"] if event["type"] == "CUSTOM"]
    assert custom[0]["value"]["data"] == {"begins": "12 * 34"}
    assert "408" in told["second"]["result"]


async def test_who_would_not_answer_ends_the_run(stack: UpProcess) -> None:
    url = f"{stack.url}/ag-ui/leaving"
    given = {"threadId": "ag-never", "text": SUM, "answer": {"status": "cancelled"}}
    told = await node("agui.mjs", "interrupt", url=url, **given)
    assert told["second"]["events"][-1]["outcome"] == {"type": "cancelled"}


async def test_a_client_s_own_tools_are_carried_out_by_it(stack: UpProcess) -> None:
    url = f"{stack.url}/ag-ui/plain"
    told = await node("agui.mjs", "tools", url=url, threadId="ag-tools", text=SUM, content="77", tools=[CALCULATOR])
    assert told["warnings"] == []
    assert [one["role"] for one in told["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert "77" in told["second"]["result"]


async def test_an_ag_ui_run_fails_or_is_stopped_with_everything_closed(stack: UpProcess, model: ScriptedModel) -> None:
    refused = await node("agui.mjs", "fail", url=f"{stack.url}/ag-ui/nobody", threadId="ag-no", text="hi")
    assert "HTTP 404" in refused["error"]
    failed = await node("agui.mjs", "fail", url=f"{stack.url}/ag-ui/boss", threadId="ag-fail", text="delegate")
    assert failed["events"][-1]["type"] == "RUN_ERROR"
    assert failed["events"][-1]["message"] == "the engine is gone"
    assert failed["events"][-2]["type"] == "STEP_FINISHED"
    model.hold = asyncio.Event()
    stopped = await node("agui.mjs", "stop", url=f"{stack.url}/ag-ui/worker", threadId="ag-stop", text="one two")
    assert stopped["status"] == 204
    assert [event["type"] for event in stopped["events"][-3:]] == ["TEXT_MESSAGE_END", "STEP_FINISHED", "RUN_FINISHED"]
    assert stopped["events"][-1]["outcome"] == {"type": "cancelled"}
    assert stopped["warnings"] == failed["warnings"] == []
