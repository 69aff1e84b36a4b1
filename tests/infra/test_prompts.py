"""The NATS agent protocol, spoken with by a plain nats-py client that knows its specification and nothing of ours."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from actors.agent.definition import Agent
from actors.models.provider import ModelCall
from actors.testing import FixedClock, Say, ScriptedModel
from actors.tools import tool
from bus.connection import Connection
from bus.store import Store
from bus.streams import ensure_streams
from infra.client import Client
from infra.prompts import offered
from schemas.messages import ToolCall
from tests.actors.runtime.bench import Bench, owning

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(30)]


@tool(effect="once", needs_approval=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


SHOP = Agent("shop", "Never say that the till is empty.", tools=[pay], description="It sells.")


def script(call: ModelCall) -> Say:
    last = call.messages[-1]
    if last.role == "user" and last.content.startswith("pay"):
        return ToolCall("k1", "pay", '{"amount": 7}')
    shown = f" and showed {len(last.images)}" if last.images else ""
    return f"you said {last.content}{shown}" if last.role == "user" else f"done: {last.content}"


@pytest.fixture
async def caller(connection: Connection, nats_url: str) -> AsyncIterator[Nats]:
    """A client of others, and an agent of ours."""
    await ensure_streams(connection, 1)
    bench = Bench(connection, nats_url, ScriptedModel(script), agents=[SHOP])

    async def no_store() -> Store:
        raise AssertionError("nothing is read back")

    async def read_back(*_: Any) -> list[Any]:
        return []

    ours = Client(connection, read_back, no_store, "acme")
    client = await nats.connect(nats_url)
    async with owning(bench.runtime("p1")), offered(connection, ours, [SHOP], "1.2.3", FixedClock()):
        yield client
    await client.close()


async def info(client: Nats) -> dict[str, Any]:
    return dict(json.loads((await client.request("$SRV.INFO.agents", b"", timeout=2)).data))


async def endpoint(client: Nats, name: str) -> dict[str, Any]:
    (found,) = [one for one in (await info(client))["endpoints"] if one["name"] == name]
    return dict(found)


@asynccontextmanager
async def asking(client: Nats, body: bytes) -> AsyncIterator[AsyncIterator[Msg]]:
    """Publish a prompt, and hear its stream."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)

    async def heard() -> AsyncIterator[Msg]:
        while True:
            message = await subscription.next_msg(timeout=5)
            yield message
            if not message.data and not message.headers:
                return

    await client.publish((await endpoint(client, "prompt"))["subject"], body, reply=inbox)
    yield heard()
    await subscription.unsubscribe()


async def stream(client: Nats, body: bytes) -> list[Msg]:
    async with asking(client, body) as messages:
        return [message async for message in messages]


def chunks(messages: list[Msg]) -> list[tuple[str, Any]]:
    decoded = [json.loads(message.data) for message in messages if message.data]
    return [(chunk["type"], chunk["data"]) for chunk in decoded]


def text(messages: list[Msg]) -> str:
    return "".join(data for kind, data in chunks(messages) if kind == "response")


async def test_an_agent_is_found_and_says_what_it_takes(caller: Nats) -> None:
    found = await info(caller)
    assert found["name"] == "agents"
    assert found["version"] == "1.2.3"
    assert found["description"] == "It sells."
    assert found["metadata"]["agent"] == "ostinato"
    assert found["metadata"]["owner"] == "acme"
    assert found["metadata"]["protocol_version"] == "0.3"
    prompt = await endpoint(caller, "prompt")
    assert prompt["queue_group"] == "agents"
    assert prompt["metadata"] == {"max_payload": f"{caller.max_payload}B", "attachments_ok": "true"}
    assert prompt["subject"] == f"agents.prompt.ostinato.acme.{found['metadata']['session']}"
    assert (await endpoint(caller, "status"))["queue_group"] == "agents"


@pytest.mark.parametrize("body", [b"hello you", b' {"prompt": "hello you", "later": 1}'])
async def test_a_prompt_is_acknowledged_answered_in_pieces_and_ended(caller: Nats, body: bytes) -> None:
    messages = await stream(caller, body)
    assert chunks(messages)[0] == ("status", "ack")
    assert text(messages) == "you said hello you"
    assert [kind for kind, _ in chunks(messages)].count("response") > 1
    assert (messages[-1].data, messages[-1].headers) == (b"", None)


async def test_a_conversation_goes_on_in_its_thread(caller: Nats) -> None:
    ((_, where),) = [chunk for chunk in chunks(await stream(caller, b"one")) if chunk[0] == "thread"]
    again = await stream(caller, json.dumps({"prompt": "two", "thread": where["thread"]}).encode())
    assert ("thread", where["thread"]) in [(kind, data["thread"]) for kind, data in chunks(again) if kind == "thread"]
    assert text(again) == "you said two"


@pytest.mark.parametrize("body", [b"", b"  ", b"{nonsense", b"{}", b'{"prompt": ""}', b"\xff"])
async def test_what_is_no_prompt_is_refused_and_the_stream_ends(caller: Nats, body: bytes) -> None:
    ack, error, end = await stream(caller, body)
    assert json.loads(ack.data) == {"type": "status", "data": "ack"}
    assert error.headers is not None
    assert error.headers["Nats-Service-Error-Code"] == "400"
    assert (end.data, end.headers) == (b"", None)


def attached(*files: tuple[str, bytes]) -> bytes:
    """A prompt with files."""
    shown = [{"filename": name, "content": base64.b64encode(data).decode()} for name, data in files]
    return json.dumps({"prompt": "look", "attachments": shown}).encode()


async def test_texts_that_are_attached_are_read_and_pictures_are_shown(caller: Nats) -> None:
    png = b"\x89PNG\r\n\x1a\n" + bytes(9)
    named = ('../a<b>/c\u202e"d.txt', "\ufeffgrüße".encode())
    said = text(await stream(caller, attached(named, ("a.png", png), ("b.png", png))))
    assert said == 'you said look\n\n<attachment name="c__d.txt">\ngrüße\n</attachment> and showed 2'


@pytest.mark.parametrize(
    "body",
    [
        attached(("a.pdf", b"%PDF-1.7\n\xff\xfe")),
        attached(("a.txt", b"")),
        attached(("a.txt", b"a\0b")),
        b'{"prompt": "look", "attachments": [{"filename": "a", "content": "a Gk="}]}',
        b'{"prompt": "look", "attachments": [{"filename": "a", "content": "_-8="}]}',
        b'{"prompt": "look", "attachments": [{"content": "aGk="}]}',
        b'{"prompt": "look", "attachments": "aGk="}',
        attached(*[("a.png", b"\x89PNG\r\n\x1a\n")] * 65),
    ],
    ids=["pdf", "empty", "zero", "blank", "url-safe", "nameless", "none", "many"],
)
async def test_attachments_that_no_model_takes_are_refused(caller: Nats, body: bytes) -> None:
    *_, error, end = await stream(caller, body)
    assert error.headers is not None
    assert error.headers["Nats-Service-Error-Code"] == "400"
    assert (end.data, end.headers) == (b"", None)


async def test_a_prompt_that_no_command_can_carry_is_refused(caller: Nats) -> None:
    *_, error, _ = await stream(caller, b"x" * (caller.max_payload - 10))
    assert error.headers is not None
    assert error.headers["Nats-Service-Error-Code"] == "400"


async def test_an_answer_that_cannot_be_read_is_asked_for_again(caller: Nats) -> None:
    questions, heard = list[str](), list[Msg]()
    async with asking(caller, b"pay") as messages:
        async for message in messages:
            heard.append(message)
            chunk = json.loads(message.data or b"{}")
            if chunk.get("type") == "query":
                questions.append(chunk["data"]["prompt"])
                reply = [b'{"nonsense"', attached(("a.txt", b"yes")), b"yes"][len(questions) - 1]
                await caller.publish(chunk["data"]["reply_subject"], reply)
    assert text(heard) == "done: paid 7"
    assert len(questions) == 3
    assert "attachments" in questions[2]
    assert all(question.startswith(questions[0]) for question in questions)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"yes", "done: paid 7"),
        (b'{"prompt": "too much"}', "done: error: the call of 'pay' was not approved: too much"),
    ],
)
async def test_a_call_that_needs_a_person_is_a_question_to_the_caller(caller: Nats, reply: bytes, said: str) -> None:
    heard = []
    async with asking(caller, b"pay") as messages:
        async for message in messages:
            heard.append(message)
            chunk = json.loads(message.data or b"{}")
            if chunk.get("type") == "query":
                assert '{"amount": 7}' in chunk["data"]["prompt"]
                await caller.publish(chunk["data"]["reply_subject"], reply)
    assert text(heard) == said


async def test_prompts_are_answered_beside_one_another(caller: Nats) -> None:
    async with asking(caller, b"pay") as waiting:
        async for message in waiting:
            if json.loads(message.data or b"{}").get("type") == "query":
                break
        assert text(await stream(caller, b"meanwhile")) == "you said meanwhile"


async def test_a_run_is_cancelled_by_its_caller(caller: Nats) -> None:
    cancel = (await endpoint(caller, "cancel"))["subject"]
    heard = []
    async with asking(caller, b"pay") as messages:
        async for message in messages:
            heard.append(message)
            chunk = json.loads(message.data or b"{}")
            if chunk.get("type") == "query":
                ((_, where),) = [one for one in chunks(heard) if one[0] == "thread"]
                answer = await caller.request(cancel, json.dumps(where).encode(), timeout=5)
                assert answer.data == b"{}"
    assert heard[-2].headers is not None
    assert "aborted" in heard[-2].headers["Nats-Service-Error"]
    refused = await caller.request(cancel, json.dumps(where).encode(), timeout=5)
    assert refused.headers is not None
    assert refused.headers["Nats-Service-Error-Code"] == "409"


async def test_it_beats_and_says_the_same_when_asked(caller: Nats, connection: Connection) -> None:
    subject = (await endpoint(caller, "status"))["subject"]
    status = json.loads((await caller.request(subject, b"", timeout=2)).data)
    assert status["instance_id"] == (await info(caller))["id"]
    assert status["interval_s"] == 30
    assert {"agent", "owner", "session", "ts"} < status.keys()
    prompt = await endpoint(caller, "prompt")
    assert status["endpoints"] == {"prompt": {"subject": prompt["subject"], "metadata": prompt["metadata"]}}


async def test_the_first_beat_comes_with_the_service(connection: Connection, nats_url: str) -> None:
    client = await nats.connect(nats_url)
    beats = await client.subscribe("agents.hb.*.*.*")
    await client.flush()
    ours = Client(connection, None, None, "acme")  # type: ignore[arg-type]
    async with offered(connection, ours, [SHOP], "1.2.3", FixedClock()):
        beat = await beats.next_msg(timeout=5)
    assert json.loads(beat.data)["owner"] == "acme"
    await client.close()
