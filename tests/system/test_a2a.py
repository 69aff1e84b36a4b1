"""Agents of the Agent2Agent protocol, with the official client: asked, answered, cancelled, come back to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from a2a.client.client import Client, ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.client.errors import A2AClientError
from a2a.helpers.proto_helpers import (
    get_artifact_text,
    get_data_parts,
    get_message_text,
    new_data_part,
    new_text_message,
)
from a2a.types.a2a_pb2 import (
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    Message,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    SubscribeToTaskRequest,
    Task,
    TaskState,
)
from a2a.utils.errors import (
    A2AError,
    InvalidParamsError,
    TaskNotFoundError,
)

from actors.models.nearby import offer_model
from actors.models.provider import ModelCall
from actors.testing import Say, ScriptedModel
from bus.connection import Connection
from schemas.messages import ToolCall
from tests.system.conftest import UpProcess, start
from tests.system.test_keys import created, guarded, url

pytestmark = pytest.mark.servers
waited = pytest.mark.deadline(90)
__all__ = ["guarded"]

SUM = "What is 12 times 34?"
BINDINGS = pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def connected(
    base: str, agent: str, binding: str = "JSONRPC", key: str = "", **about: Any
) -> AsyncIterator[Client]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(timeout=60, headers=headers) as http:
        config = ClientConfig(httpx_client=http, supported_protocol_bindings=[binding], **about)
        yield await ClientFactory(config).create_from_url(f"{base}/a2a/{agent}")


def asked(text: str, task: Task | None = None, **configuration: Any) -> SendMessageRequest:
    message = new_text_message(text, role=Role.ROLE_USER)
    if task is not None:
        message.task_id, message.context_id = task.id, task.context_id
    return SendMessageRequest(message=message, configuration=SendMessageConfiguration(**configuration))


async def events(stream: Any) -> list[tuple[str, Any]]:
    """What a client heard, by kind."""
    heard = []
    async for one in stream:
        kind = one.WhichOneof("payload")
        heard.append((kind, getattr(one, kind)))
    return heard


def answer(heard: list[tuple[str, Any]]) -> str:
    return "".join(get_artifact_text(one.artifact) for kind, one in heard if kind == "artifact_update")


@waited
@pytest.mark.anyio
@BINDINGS
async def test_an_agent_answers_as_it_goes_on_and_its_task_is_there_afterwards(stack: UpProcess, binding: str) -> None:
    async with connected(stack.url, "demo", binding) as client:
        heard = await events(client.send_message(asked(SUM)))
        assert heard[0][0] == "task"
        task = heard[0][1]
        assert "408" in answer(heard)
        assert heard[-1][1].status.state == TaskState.TASK_STATE_COMPLETED
        found = await client.get_task(GetTaskRequest(id=task.id, history_length=10))
        assert found.status.state == TaskState.TASK_STATE_COMPLETED
        assert get_artifact_text(found.artifacts[0]) == answer(heard)
        assert get_message_text(found.history[0]) == SUM
        assert {one.role for one in found.history} == {Role.ROLE_USER, Role.ROLE_AGENT}
        more = asked("Hello!")
        more.message.context_id = task.context_id
        again = await events(client.send_message(more))
        assert again[0][1].context_id == task.context_id
        assert again[0][1].id != task.id
        listed = await client.list_tasks(ListTasksRequest(context_id=task.context_id))
        assert {one.id for one in listed.tasks} <= {task.id, again[0][1].id}


@waited
@pytest.mark.anyio
@BINDINGS
async def test_one_answer_at_once_where_nothing_is_streamed(stack: UpProcess, binding: str) -> None:
    async with connected(stack.url, "demo", binding, streaming=False) as client:
        ((kind, task),) = await events(client.send_message(asked(SUM)))
        assert (kind, task.status.state) == ("task", TaskState.TASK_STATE_COMPLETED)
        assert "408" in get_artifact_text(task.artifacts[0])


@waited
@pytest.mark.anyio
@BINDINGS
async def test_a_task_that_needs_a_yes_asks_for_it_and_goes_on_with_the_answer(stack: UpProcess, binding: str) -> None:
    async with connected(stack.url, "careful", binding) as client:
        heard = await events(client.send_message(asked(SUM)))
        task, status = heard[0][1], heard[-1][1].status
        assert status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        assert "12 * 34" in get_message_text(status.message)
        found = await client.get_task(GetTaskRequest(id=task.id))
        assert found.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        done = await events(client.send_message(asked("Yes.", task)))
        assert done[-1][1].status.state == TaskState.TASK_STATE_COMPLETED
        assert "408" in answer(done)
        with pytest.raises(A2AError):
            await events(client.send_message(asked("Yes.", task)))


@waited
@pytest.mark.anyio
async def test_any_other_answer_is_a_no_that_the_agent_is_told(stack: UpProcess) -> None:
    async with connected(stack.url, "careful") as client:
        task = (await events(client.send_message(asked(SUM))))[0][1]
        done = await events(client.send_message(asked("Not on a Sunday", task)))
        assert done[-1][1].status.state == TaskState.TASK_STATE_COMPLETED
        found = await client.get_task(GetTaskRequest(id=task.id, history_length=10))
        assert "408" not in get_artifact_text(found.artifacts[0])


def two_sums(call: ModelCall) -> Say:
    """Work out two things at once, then tell what came of them."""
    given = [message.content for message in call.messages if message.role == "tool"]
    if given:
        return " and ".join(given)
    return [
        ToolCall("k1", "calculator", '{"expression": "1 + 1"}'),
        ToolCall("k2", "calculator", '{"expression": "2 + 3"}'),
    ]


@asynccontextmanager
async def twice_careful(up: UpProcess) -> AsyncIterator[tuple[Client, Task, list[dict[str, Any]]]]:
    """A task that waits for a yes to each of two calls, and what it says of them to programs."""
    async with await Connection.open(up.nats_url, "scripted") as connection:
        await offer_model(connection, "scripted", "1.0.0", ScriptedModel(two_sums))
        async with connected(up.url, "careful_twice") as client:
            heard = await events(client.send_message(asked("Both.")))
            status = heard[-1][1].status
            assert status.state == TaskState.TASK_STATE_INPUT_REQUIRED
            (told,) = get_data_parts(status.message.parts)
            yield client, heard[0][1], told["waits"]


def through_another(call: ModelCall) -> Any:
    """Ask another agent, which works out two things, and tell what it said."""
    if call.agent != "chief":
        return two_sums(call)
    last = call.messages[-1]
    return last.content if last.role == "tool" else ToolCall("k1", "careful_twice", '{"message": "Both."}')


@waited
@pytest.mark.anyio
async def test_what_another_agent_waits_for_is_asked_and_answered_here(stack: UpProcess) -> None:
    async with await Connection.open(stack.nats_url, "scripted") as connection:
        await offer_model(connection, "scripted", "1.0.0", ScriptedModel(through_another))
        async with connected(stack.url, "chief") as client:
            heard = await events(client.send_message(asked("Both.")))
            task, status = heard[0][1], heard[-1][1].status
            assert status.state == TaskState.TASK_STATE_INPUT_REQUIRED
            assert get_message_text(status.message).count("calculator") == 2
            found = await client.get_task(GetTaskRequest(id=task.id))
            assert found.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
            done = await events(client.send_message(asked("Yes to all.", task)))
            assert done[-1][1].status.state == TaskState.TASK_STATE_COMPLETED
            assert answer(done) == "2 and 5"


def answered(task: Task, *parts: dict[str, Any]) -> SendMessageRequest:
    message = asked("", task).message
    del message.parts[:]
    message.parts.extend(map(new_data_part, parts))
    return SendMessageRequest(message=message)


@waited
@pytest.mark.anyio
async def test_one_yes_is_not_for_several_calls(stack: UpProcess) -> None:
    async with twice_careful(stack) as (client, task, waits):
        assert [(one["tool"], one["kind"]) for one in waits] == [("calculator", "approval")] * 2
        for text in ("yes", "no", "all"):
            still = (await events(client.send_message(asked(text, task))))[-1][1].status
            assert still.state == TaskState.TASK_STATE_INPUT_REQUIRED
            assert all(one["effect"] in get_message_text(still.message) for one in waits)
            assert "yes to all" in get_message_text(still.message)
        with pytest.raises(InvalidParamsError, match="nothing waits as 'e-none'"):
            await events(client.send_message(answered(task, {"effect": "e-none", "answer": "yes"})))
        done = await events(client.send_message(asked("Yes to all.", task)))
        assert done[-1][1].status.state == TaskState.TASK_STATE_COMPLETED
        assert answer(done) == "2 and 5"


@waited
@pytest.mark.anyio
async def test_each_of_several_calls_is_answered_by_its_name(stack: UpProcess) -> None:
    async with twice_careful(stack) as (client, task, (first, second)):
        yes = {"effect": second["effect"], "answer": "yes"}
        left = (await events(client.send_message(answered(task, yes))))[-1][1].status
        assert left.state == TaskState.TASK_STATE_INPUT_REQUIRED
        (told,) = get_data_parts(left.message.parts)
        assert [one["effect"] for one in told["waits"]] == [first["effect"]]
        no = {"effect": first["effect"], "answer": "no", "reason": "not on a Sunday"}
        done = await events(client.send_message(answered(task, no)))
        assert done[-1][1].status.state == TaskState.TASK_STATE_COMPLETED
        assert "not on a Sunday" in answer(done)
        assert answer(done).endswith("5")


@waited
@pytest.mark.anyio
@BINDINGS
async def test_a_task_is_cancelled_and_what_is_not_there_says_so(stack: UpProcess, binding: str) -> None:
    async with connected(stack.url, "careful", binding) as client:
        task = (await events(client.send_message(asked(SUM))))[0][1]
        ended = await client.cancel_task(CancelTaskRequest(id=task.id))
        assert ended.status.state == TaskState.TASK_STATE_CANCELED
        for identity in ("r-none.t-none", "strange"):
            with pytest.raises(A2AError):
                await client.get_task(GetTaskRequest(id=identity))
        with pytest.raises(A2AError):
            await client.cancel_task(CancelTaskRequest(id=task.id))
        with pytest.raises(A2AError):
            await events(client.send_message(SendMessageRequest(message=Message(message_id="m", role=Role.ROLE_USER))))


@waited
@pytest.mark.anyio
@BINDINGS
async def test_what_cannot_be_a_context_lists_nothing_and_tells_nothing_of_the_database(
    stack: UpProcess, binding: str
) -> None:
    async with connected(stack.url, "demo", binding) as client:
        with pytest.raises(InvalidParamsError, match="contextId"):
            await client.list_tasks(ListTasksRequest(context_id="a\0"))


@waited
@pytest.mark.anyio
async def test_of_a_thread_that_was_deleted_no_task_is_left(stack: UpProcess) -> None:
    async with connected(stack.url, "demo") as client, httpx.AsyncClient(base_url=stack.url) as http:
        task = (await events(client.send_message(asked("Hello!"))))[0][1]
        deleted = await http.request("DELETE", f"/api/threads/{task.context_id}", json={})
        assert deleted.status_code == 200
        gone = False
        while not gone:
            try:
                await client.get_task(GetTaskRequest(id=task.id))
            except TaskNotFoundError:
                gone = True
        for ask in (
            client.cancel_task(CancelTaskRequest(id=task.id)),
            events(client.send_message(asked("More!", task))),
            events(client.subscribe(SubscribeToTaskRequest(id=task.id))),
        ):
            with pytest.raises(TaskNotFoundError):
                await ask


@waited
@pytest.mark.anyio
async def test_a_task_that_was_cancelled_is_listed_as_that(stack: UpProcess) -> None:
    async with connected(stack.url, "careful") as client:
        task = (await events(client.send_message(asked(SUM))))[0][1]
        await client.cancel_task(CancelTaskRequest(id=task.id))
        state = None
        while state not in {TaskState.TASK_STATE_CANCELED, TaskState.TASK_STATE_FAILED}:
            listed = await client.list_tasks(ListTasksRequest(context_id=task.context_id))
            state = listed.tasks[0].status.state if listed.tasks else None
        assert state == TaskState.TASK_STATE_CANCELED


@waited
@pytest.mark.anyio
async def test_another_agents_task_is_none_of_this_ones(stack: UpProcess) -> None:
    async with connected(stack.url, "careful") as client, connected(stack.url, "demo") as other:
        task = (await events(client.send_message(asked(SUM))))[0][1]
        with pytest.raises(A2AError):
            await other.get_task(GetTaskRequest(id=task.id))


@waited
@pytest.mark.anyio
async def test_an_answer_to_a_task_that_is_over_settles_no_other_task_of_its_thread(stack: UpProcess) -> None:
    async with connected(stack.url, "careful") as client:
        over = (await events(client.send_message(asked(SUM))))[0][1]
        await events(client.send_message(asked("yes", over)))
        more = asked(SUM)
        more.message.context_id = over.context_id
        waits = (await events(client.send_message(more)))[0][1]
        with pytest.raises(A2AError, match="waits for nothing"):
            await events(client.send_message(asked("yes", over)))
        found = await client.get_task(GetTaskRequest(id=waits.id))
        assert found.status.state == TaskState.TASK_STATE_INPUT_REQUIRED


@waited
@pytest.mark.anyio
@BINDINGS
async def test_a_page_that_cannot_be_says_why(stack: UpProcess, binding: str) -> None:
    async with connected(stack.url, "demo", binding) as client:
        for token in ("x", "\u00b2", "9" * 30):
            with pytest.raises(InvalidParamsError, match="pageToken"):
                await client.list_tasks(ListTasksRequest(page_token=token))
        with pytest.raises(InvalidParamsError, match="page size"):
            await client.list_tasks(ListTasksRequest(page_size=-1))


@waited
@pytest.mark.anyio
async def test_a_task_outlives_the_stack_and_is_come_back_to(system_folder: Path, tmp_path: Path) -> None:
    up = start(system_folder / tmp_path.name)
    async with connected(up.url, "careful") as client:
        task = (await events(client.send_message(asked(SUM, return_immediately=True))))[0][1]
        waiting = await events(client.subscribe(SubscribeToTaskRequest(id=task.id)))
        assert waiting[-1][1].status.state == TaskState.TASK_STATE_INPUT_REQUIRED
    assert up.stop() == 0
    again = start(system_folder / tmp_path.name)
    try:
        async with connected(again.url, "careful") as client:
            done = await events(client.send_message(asked("yes", task)))
            assert "408" in answer(done)
            with pytest.raises(A2AError):
                await events(client.subscribe(SubscribeToTaskRequest(id=task.id)))
    finally:
        assert again.stop() == 0


@waited
@pytest.mark.anyio
async def test_a_tenant_sees_no_task_of_another(guarded: UpProcess) -> None:
    ours, theirs = (created(guarded, "--tenant", name)["key"] for name in ("a2a-acme", "a2a-umbrella"))
    async with (
        connected(url(guarded), "demo", key=ours) as client,
        connected(url(guarded), "demo", key=theirs) as foreign,
    ):
        task = (await events(client.send_message(asked("Hello!"))))[0][1]
        with pytest.raises(A2AError):
            await foreign.get_task(GetTaskRequest(id=task.id))
        assert not (await foreign.list_tasks(ListTasksRequest())).tasks


@waited
@pytest.mark.anyio
@BINDINGS
async def test_a_key_that_comes_too_often_is_told_so(guarded: UpProcess, binding: str) -> None:
    key = created(guarded, "--tenant", "a2a-slow", "--requests-per-minute", "2")["key"]
    async with connected(url(guarded), "demo", binding, key=key) as client:
        await client.list_tasks(ListTasksRequest())
        with pytest.raises(A2AClientError, match="429"):
            await client.list_tasks(ListTasksRequest())


def test_the_card_says_where_and_how(stack: UpProcess, guarded: UpProcess) -> None:
    card = httpx.get(f"{stack.url}/.well-known/agent-card.json").json()
    assert card["name"] == "demo"
    assert {one["protocolBinding"] for one in card["supportedInterfaces"]} == {"JSONRPC", "HTTP+JSON"}
    assert card["supportedInterfaces"][0]["url"] == f"{stack.url}/a2a/demo/"
    assert "calculator" in {skill["id"] for skill in card["skills"]}
    assert card.keys().isdisjoint({"securitySchemes", "securityRequirements"})
    assert card["capabilities"]["pushNotifications"] is True
    assert httpx.get(f"{url(guarded)}/.well-known/agent-card.json").status_code == 401


def test_the_card_says_what_key_is_needed(guarded: UpProcess) -> None:
    headers = {"authorization": f"Bearer {created(guarded)['key']}"}
    card = httpx.get(f"{url(guarded)}/a2a/demo/.well-known/agent-card.json", headers=headers).json()
    assert card["securitySchemes"]["bearer"]["httpAuthSecurityScheme"]["scheme"] == "Bearer"
    header = card["securitySchemes"]["apiKey"]["apiKeySecurityScheme"]
    assert (header["location"], header["name"]) == ("header", "x-api-key")
    assert [list(one["schemes"]) for one in card["securityRequirements"]] == [["bearer"], ["apiKey"]]
