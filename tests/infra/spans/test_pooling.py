"""Requests for vectors, scores and ranks, as spans: told as they happen, beneath the caller's."""

from __future__ import annotations

from typing import Any

import httpx2
import msgspec
import pytest

from bus import subjects
from bus.connection import Connection, Message
from infra.bridge.app import Bridge
from infra.spans.asides import Aside, aside_span
from infra.spans.content import NoContent
from infra.spans.names import NAMES
from infra.spans.pooling import TextsPooled, pooling_span
from schemas.pooling import Scores
from tests.infra.bridge.doors import Counted

TRACE = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
POOLED = TextsPooled("acme", "q1", TRACE, "embeddings", "m", 12, 5, 9)


def test_a_request_is_a_span_of_its_operation_beneath_its_caller_s() -> None:
    span = pooling_span(POOLED, NAMES["1.41"])
    assert (span.name, span.trace, span.parent, span.start, span.end) == ("embeddings m", "ab" * 16, "cd" * 8, 5, 9)
    assert (span.kind, span.problem, span.sampled) == ("server", "", True)
    assert span.attributes == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.request.model": "m",
        "gen_ai.response.model": "m",
        "gen_ai.usage.input_tokens": 12,
        "ostinato.tenant": "acme",
        "ostinato.request_id": "q1",
    }
    assert aside_span(POOLED, NAMES["1.41"], NoContent()) == span
    assert (
        pooling_span(POOLED._replace(start=6), NAMES["1.41"]).span != span.span
    )  # a client names requests as it likes


def test_one_that_failed_says_why_and_of_no_model_what_it_did_not_do() -> None:
    failed = POOLED._replace(model="", tokens=0, problem="input: give a text", traceparent="")
    span = pooling_span(failed, NAMES["1.41"])
    assert (span.name, span.parent, span.problem) == ("embeddings", "", "input: give a text")
    assert not any(name in span.attributes for name in ("gen_ai.response.model", "gen_ai.usage.input_tokens"))


@pytest.mark.anyio
async def test_the_bridge_tells_of_each_whether_it_was_answered_or_not(connection: Connection) -> None:
    async def heard(message: Message) -> None:
        assert message.reply is not None
        await connection.publish(message.reply, msgspec.json.encode(Scores((0.1, 0.9), 7)))

    await connection.subscribe(subjects.ask_pooler("m"), heard)
    told, counted = list[Aside](), Counted()
    about: dict[str, Any] = {"ids": counted, "clock": counted, "chance": counted, "tenant": "acme"}
    about |= {"models": (), "agents": (), "poolers": ("m",), "aside": told.append}
    bridge = Bridge(connection=connection, read_back=None, state=None, **about)  # type: ignore[arg-type]
    transport = httpx2.ASGITransport(bridge.application())
    async with httpx2.AsyncClient(transport=transport, base_url="http://door") as client:
        body = {"model": "m", "query": "a", "documents": ["b", "c"]}
        headers = {"traceparent": TRACE, "x-request-id": "q1"}
        ranked = await client.post("/v1/rerank", json=body, headers=headers)
        assert [one["index"] for one in ranked.json()["results"]] == [1, 0]
        unknown = await client.post("/v1/embeddings", json={"model": "n", "input": "a"}, headers=headers)
        assert unknown.status_code == 404
        unread = await client.post("/score", content=b"{", headers=headers)
        assert unread.status_code == 400
    first, *failed = told
    assert isinstance(first, TextsPooled)
    assert first == ("acme", "q1", TRACE, "rerank", "m", 7, first.start, first.end, "")
    assert first.start < first.end
    assert [one[3:6] for one in failed] == [("embeddings", "", 0), ("score", "", 0)]
    assert all(one.problem for one in failed)
    assert failed[0].problem.startswith("model: 'n'")
