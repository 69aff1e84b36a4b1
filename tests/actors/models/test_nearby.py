"""A model of another process on the same NATS: found by its micro service, spoken to in frames."""

from __future__ import annotations

import asyncio
import json

import msgspec
import nats
import pytest

from actors.errors import CallFailed
from actors.models.nearby import Nearby, offer_model
from actors.models.provider import ModelAnswer, Piece
from actors.testing import ScriptedModel
from bus import subjects
from bus.connection import Connection, Message
from schemas.messages import ToolCall, Usage
from schemas.runs import Problem
from tests.actors.models.calls import asking

pytestmark = pytest.mark.anyio


class Ear:
    """Hears an answer."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []

    async def __call__(self, piece: Piece, /) -> None:
        self.pieces.append(piece)

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


async def test_a_model_that_is_offered_answers_as_if_it_were_here(connection: Connection, nats_url: str) -> None:
    call = ToolCall("c1", "f", "{}")
    model = ScriptedModel(lambda asked: call if asked.tools else f"hello {asked.messages[0].content}")
    await offer_model(connection, "org/big", "1.2.3", model)
    async with await Connection.open(nats_url, "other") as other:
        ear = Ear()
        answer = await Nearby("org/big", other).call(asking("there", model="local/org/big"), ear)
        assert (answer.text, ear.text, len(ear.pieces)) == ("hello there", "hello there", 2)
        assert model.calls == [asking("there", model="local/org/big")]
    client = await nats.connect(nats_url)
    info = json.loads((await client.request("$SRV.INFO.model-org-2fbig", b"", timeout=2)).data)
    assert info["metadata"]["model"] == "org/big"
    await client.close()


async def test_its_problems_are_its_own_and_so_is_an_abort(connection: Connection) -> None:
    problem = Problem(kind="overloaded", message="busy", retry_after_ms=70)
    model = ScriptedModel(lambda _: problem)
    await offer_model(connection, "big", "1.2.3", model)
    with pytest.raises(CallFailed) as failed:
        await Nearby("big", connection).call(asking(), Ear())
    assert failed.value.problem == problem
    await Nearby("big", connection).abort("acme/t1/r1-1-m")
    await connection.flush()
    while not model.aborted:
        await connection.flush()
    assert model.aborted == ["acme/t1/r1-1-m"]


async def test_nobody_offering_it_is_told_at_once(connection: Connection) -> None:
    with pytest.raises(CallFailed, match="no model 'gone' is offered on NATS"):
        await Nearby("gone", connection).call(asking(), Ear())


async def test_a_service_in_plain_json_is_enough_and_what_is_lost_of_it_comes_at_the_end(
    connection: Connection,
) -> None:
    async def serve(message: Message) -> None:
        asked = json.loads(message.data)
        assert asked["messages"] == [{"role": "user", "content": "hi"}]
        answer = {"text": "one two three", "finish_reason": "stop", "usage": {"prompt_tokens": 1}}
        for frame in (
            {"frame": "said", "piece": {"offset": 0, "text": "one"}},
            {"frame": "going"},
            {"frame": "said", "piece": {"offset": 7, "text": " three"}},
            {"frame": "answer", "answer": answer},
        ):
            await connection.publish(message.reply, json.dumps(frame).encode())

    await connection.subscribe(subjects.ask_model("mine"), serve)
    ear = Ear()
    answer = await Nearby("mine", connection).call(asking(), ear)
    assert answer == ModelAnswer("one two three", "stop", Usage(1))
    assert ear.text == "one two three"


async def test_pieces_of_its_calls_are_passed_on_once_each(connection: Connection) -> None:
    async def serve(message: Message) -> None:
        one, two = [0, "c0", "f"], [1, "c1", "f"]
        pieces = ((0, '{"a"', one), (4, ": 1}", one), (0, "{", two), (0, "{", two), (1, "}", two))
        for offset, text, call in pieces:
            piece = {"offset": offset, "text": text, "kind": "call", "call": call}
            await connection.publish(message.reply, json.dumps({"frame": "said", "piece": piece}).encode())
        calls = [{"id": "c0", "name": "f", "arguments": '{"a": 1}'}, {"id": "c1", "name": "f", "arguments": "{}"}]
        answer = {"text": "", "finish_reason": "tool_calls", "usage": {}, "tool_calls": calls}
        await connection.publish(message.reply, json.dumps({"frame": "answer", "answer": answer}).encode())

    await connection.subscribe(subjects.ask_model("mine"), serve)
    ear = Ear()
    answer = await Nearby("mine", connection).call(asking(), ear)
    assert len(answer.tool_calls) == 2
    assert [piece.text for piece in ear.pieces] == ['{"a"', ": 1}", "{", "}"]


async def test_silence_and_nonsense_are_failures(connection: Connection) -> None:
    async def nonsense(message: Message) -> None:
        await connection.publish(message.reply, b"nonsense")

    async def silence(message: Message) -> None:
        await asyncio.Event().wait()

    await connection.subscribe(subjects.ask_model("odd"), nonsense)
    with pytest.raises(CallFailed, match="no frame"):
        await Nearby("odd", connection).call(asking(), Ear())
    await connection.subscribe(subjects.ask_model("mute"), silence)
    with pytest.raises(CallFailed, match=r"said nothing for 0\.1 s"):
        await Nearby("mute", connection, silence_s=0.1).call(asking(), Ear())


async def test_what_is_no_call_is_refused(connection: Connection) -> None:
    await offer_model(connection, "big", "1.2.3", ScriptedModel(lambda _: "x"))
    reply = await connection.request(subjects.ask_model("big"), b"{}")
    assert msgspec.json.decode(reply.data)["problem"]["kind"] == "invalid"
