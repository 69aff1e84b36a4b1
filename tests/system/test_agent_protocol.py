"""The real SDK of the NATS agent protocol, which knows nothing of ours, against a whole stack."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client as Nats
from synadia_ai.agents import (
    Agent,
    Agents,
    Attachment,
    DiscoverFilter,
    Envelope,
    HeartbeatPayload,
    PayloadTooLargeError,
    ProtocolError,
    Query,
)
from synadia_ai.agents.messages import ResponseChunk, StatusChunk

from infra.client import connect
from schemas.live import Committed
from tests.actors.models.double import Asked, Played, ProviderDouble, chat_chunks, fails, says
from tests.system.conftest import UpProcess, start
from tests.system.test_waits import waiting_in

pytestmark = pytest.mark.servers

AGENTS = """
from ostinato import Agent, ToolContext, tool

@tool(effect="once", needs_approval=True)
def pay(amount: int) -> str:
    "Pay."
    return f"paid {amount}"

@tool(effect="once")
def where(context: ToolContext) -> str:
    "Find out where to send it."
    return f"sent to {context.suspend({'question': 'where to?'}, str)}"

seer = Agent("seer", "Never say that the till is empty.", model="openai/gpt-x", tools=[pay, where], description="Sees.")
blind = Agent("blind", "Answer.", max_tokens=20)
"""
CONFIGURATION = """
[models]
breaker_failures = 0

[models.providers.openai]
url = "{url}/v1"
"""
PNG = b"\x89PNG\r\n\x1a\n" + b"Quetzalcoatlus" * 10
WAIT_S = 60.0


def played(asked: Asked) -> Played:
    """Say what was heard; call a tool, wait or fail where that is asked for."""
    said = asked.body["messages"][-1]
    if isinstance(said["content"], list):
        return says(" and ".join(part["type"] for part in said["content"]))
    match said["content"].split(maxsplit=1)[0] if said["role"] == "user" else "":
        case "pay" | "where" as name:
            arguments = '{"amount": 7}' if name == "pay" else "{}"
            call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
            return Played(chat_chunks({"tool_calls": [call]}, finish="tool_calls"))
        case "wait":
            return Played(chat_chunks({"content": "I wait"})[:2], ends="held")
        case "fail":
            return fails(400, "no such thing")
        case _:
            return Played(chat_chunks(*({"content": part} for part in ("heard: ", said["content"]))))


@pytest.fixture(scope="module")
def spoken_to(system_folder: Path) -> Iterator[tuple[UpProcess, ProviderDouble]]:
    folder = system_folder / "protocol"
    folder.mkdir()
    (folder / "offered.py").write_text(AGENTS, encoding="utf-8")
    with ProviderDouble(played) as double, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "k")
        (folder / "ostinato.toml").write_text(CONFIGURATION.format(url=double.url), encoding="utf-8")
        up = start(folder / "data", "--agents", str(folder / "offered.py"), "--config", str(folder / "ostinato.toml"))
        try:
            yield up, double
        finally:
            double.released.set()
            assert up.stop() == 0


@asynccontextmanager
async def calling(up: UpProcess) -> AsyncIterator[tuple[Agents, Nats]]:
    client = await nats.connect(up.nats_url)
    agents = Agents(nc=client, stream_inactivity_timeout=WAIT_S)
    try:
        yield agents, client
    finally:
        await agents.close()
        await client.close()


async def named(agents: Agents, name: str) -> Agent:
    (found,) = await agents.discover(filter=DiscoverFilter(agent="ostinato", session_name=name))
    return found


async def heard(agent: Agent, prompt: str | Envelope, **more: Any) -> list[str]:
    """The pieces of an answer."""
    chunks = [chunk async for chunk in agent.prompt(prompt, **more)]
    assert isinstance(chunks[0], StatusChunk)
    assert chunks[0].status == "ack"
    return [chunk.text for chunk in chunks if isinstance(chunk, ResponseChunk)]


def test_agents_are_found_and_say_what_they_take(spoken_to: tuple[UpProcess, ProviderDouble]) -> None:
    async def play() -> None:
        async with calling(spoken_to[0]) as (agents, _):
            found = {agent.session_name: agent for agent in await agents.discover()}
            assert {"seer", "blind"} <= found.keys()
            seer = found["seer"]
            assert (seer.agent, seer.protocol_version, seer.description) == ("ostinato", "0.3", "Sees.")
            assert seer.prompt_endpoint.attachments_ok is True
            assert (seer.prompt_endpoint.max_payload_bytes or 0) > 1 << 20
            assert not await agents.discover(filter=DiscoverFilter(owner="somebody-else"))

    asyncio.run(play())


def test_an_answer_streams_and_its_conversation_goes_on(spoken_to: tuple[UpProcess, ProviderDouble]) -> None:
    up, double = spoken_to

    async def play() -> None:
        async with calling(up) as (agents, _):
            seer, blind = await named(agents, "seer"), await named(agents, "blind")
            first, second = (Envelope(prompt=text, thread="t-sdk") for text in ("hello", "and now?"))  # type: ignore[call-arg]
            assert await heard(seer, first) == ["heard: ", "hello"]
            assert await heard(seer, second) == ["heard: ", "and now?"]
            said = [message["content"] for message in double.asked[-1].body["messages"]]
            assert said[1:] == ["hello", "heard: hello", "and now?"]
            assert "".join(await heard(blind, "hello"))

    asyncio.run(play())


def test_who_prompts_agrees_declines_and_gives_data(spoken_to: tuple[UpProcess, ProviderDouble]) -> None:
    async def answered(agent: Agent, prompt: str, reply: str | Envelope) -> str:
        said = ""
        async for chunk in agent.prompt(prompt):
            if isinstance(chunk, Query):
                await chunk.reply(reply)
            elif isinstance(chunk, ResponseChunk):
                said += chunk.text
        return said

    async def play() -> None:
        async with calling(spoken_to[0]) as (agents, _):
            seer = await named(agents, "seer")
            assert await answered(seer, "pay it", "yes") == "heard: paid 7"
            assert "too much" in await answered(seer, "pay it", Envelope(prompt="too much"))
            assert await answered(seer, "where is it", "Rome") == "heard: sent to Rome"

    asyncio.run(play())


def test_texts_are_read_pictures_are_shown_to_who_sees_and_all_else_is_refused(
    spoken_to: tuple[UpProcess, ProviderDouble],
) -> None:
    notes, cat = Attachment.from_bytes("notes.md", b"# eggs"), Attachment.from_bytes("cat.png", PNG)

    async def play() -> None:
        async with calling(spoken_to[0]) as (agents, _):
            seer, blind = await named(agents, "seer"), await named(agents, "blind")
            assert "# eggs" in "".join(await heard(seer, "read", attachments=[notes]))
            assert "".join(await heard(seer, "look", attachments=[notes, cat])) == "text and image_url"
            assert "".join(await heard(blind, "read", attachments=[notes]))
            with pytest.raises(ProtocolError, match=r"service error 400: .*sees no images"):
                await heard(blind, "look", attachments=[cat])
            with pytest.raises(ProtocolError, match=r"service error 400: attachment 'a.zip' is neither"):
                await heard(seer, "look", attachments=[Attachment.from_bytes("a.zip", b"PK\x03\x04\xff")])
            with pytest.raises(PayloadTooLargeError):
                await heard(seer, "look", attachments=[Attachment.from_bytes("much", bytes(12 << 20))])

    asyncio.run(play())


def test_errors_are_the_protocol_s(spoken_to: tuple[UpProcess, ProviderDouble]) -> None:
    async def play() -> None:
        async with calling(spoken_to[0]) as (agents, _):
            seer = await named(agents, "seer")
            for prompt, why in (
                (" ", "400: prompt missing"),
                (Envelope(prompt="hi", thread="no thread.*"), "400: .*thread"),  # type: ignore[call-arg]
                ("fail", "400: openai/gpt-x: its provider answered 400: no such thing"),
            ):
                with pytest.raises(ProtocolError, match=f"service error {why}"):
                    await heard(seer, prompt)  # type: ignore[arg-type]

    asyncio.run(play())


def test_a_run_is_cancelled_and_one_whose_caller_left_goes_on(spoken_to: tuple[UpProcess, ProviderDouble]) -> None:
    up, _ = spoken_to

    async def play() -> None:
        async with calling(up) as (agents, client):
            seer = await named(agents, "seer")
            (cancel,) = [one.subject for one in seer.endpoints if one.name == "cancel"]
            waiting = Envelope(prompt="wait", thread="t-cancel")  # type: ignore[call-arg]

            async def cancelled_once_it_speaks(prompt: Envelope) -> None:
                async for chunk in seer.prompt(prompt):
                    if isinstance(chunk, ResponseChunk):
                        await client.request(cancel, json.dumps({"thread": "t-cancel"}).encode(), timeout=WAIT_S)

            with pytest.raises(ProtocolError, match="aborted"):
                await cancelled_once_it_speaks(waiting)
            leaving = Envelope(prompt="pay", thread="t-leave")  # type: ignore[call-arg]
            async with aclosing(seer.prompt(leaving)) as stream:  # type: ignore[type-var]
                async for chunk in stream:
                    if isinstance(chunk, Query):
                        break
        async with connect(str(up.data)) as ours:
            waits = await waiting_in(ours, "t-leave")
            await ours.settle("t-leave", waits.approve())
            finished = [frame async for frame in ours.attend("t-leave", waits.effect.rsplit("-", 2)[0])]
            assert isinstance(finished[-1], Committed)
            assert b"heard: paid 7" in bytes(finished[-1].data)

    asyncio.run(play())


def test_who_watches_hears_of_an_agent_that_comes_back(spoken_to: tuple[UpProcess, ProviderDouble]) -> None:
    up, _ = spoken_to

    async def play() -> None:
        async with calling(up) as (agents, client):
            await agents.start_tracking()
            before = await named(agents, "seer")
            assert (await before.status()).instance_id == before.instance_id
            assert await agents.ping(before.instance_id)
            beats = await client.subscribe("agents.hb.ostinato.*.seer")
            os.kill(up.pid("agents-0"), signal.SIGKILL)
            beat = HeartbeatPayload.model_validate_json((await beats.next_msg(timeout=WAIT_S)).data)
            after = await named(agents, "seer")
            assert before.instance_id != after.instance_id == beat.instance_id
            assert beat.endpoints is not None
            assert beat.endpoints["prompt"].subject == after.prompt_subject
            known = agents.liveness(after.instance_id)
            assert known is not None
            assert known.is_online
            assert not await agents.ping(before.instance_id)
            assert await heard(after, "again") == ["heard: ", "again"]

    asyncio.run(play())
