"""Searches of memory that a client asks for, as spans: told as they happen, with what the conventions call them."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from bus import subjects
from bus.connection import Connection, Message
from infra.bridge.app import Bridge
from infra.spans.content import NoContent, Redacted
from infra.spans.names import NAMES
from infra.spans.searching import Searched, search_span
from schemas import codec
from schemas.recollections import Recalled, Unanswered
from schemas.runs import Problem
from tests.infra.bridge.doors import Counted

TRACE = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
SEARCH = Searched("acme", "q1", TRACE, "resource", "where is ada@example.org", 2, 5, 9, resource="ann")


def test_a_search_is_a_span_of_its_operation_beneath_its_caller_s() -> None:
    span = search_span(SEARCH, NAMES["0.1"], NoContent())
    assert (span.name, span.trace, span.parent, span.start, span.end) == (
        *("search_memory recall", "ab" * 16, "cd" * 8, 5, 9),
    )
    assert span.attributes == {
        "gen_ai.operation.name": "search_memory",
        "gen_ai.memory.store.id": "resource",
        "gen_ai.memory.record.count": 2,
        "ostinato.tenant": "acme",
        "ostinato.request_id": "q1",
        "ostinato.found": 2,
    }
    assert search_span(SEARCH._replace(start=6), NAMES["0.1"], NoContent()).span != span.span
    alone = search_span(SEARCH._replace(traceparent=""), NAMES["1.41"], Redacted())
    assert alone.parent == ""
    assert not any("gen_ai.memory" in name for name in alone.attributes)


def test_what_was_looked_for_is_told_where_that_is_wanted_and_masked() -> None:
    told = search_span(SEARCH, NAMES["0.1"], Redacted()).attributes["gen_ai.memory.query.text"]
    assert told.startswith("where is")
    assert "ada@example.org" not in told


def test_whose_memory_it_is_is_told_only_where_what_was_said_is() -> None:
    def store(searched: Searched, content: NoContent) -> Any:
        return search_span(searched, NAMES["0.1"], content).attributes["gen_ai.memory.store.id"]

    assert "ann" not in search_span(SEARCH, NAMES["0.1"], NoContent()).attributes.values()
    assert store(SEARCH, Redacted()) == "ann"
    assert "ada@example.org" not in store(SEARCH._replace(resource="ada@example.org"), Redacted())
    of_thread = SEARCH._replace(store="t1", resource="")
    assert [store(of_thread, content) for content in (NoContent(), Redacted())] == ["t1", "t1"]


@pytest.mark.anyio
async def test_a_search_over_http_is_told_whether_it_finds_something_or_not(connection: Connection) -> None:
    answers: list[Any] = [
        (Recalled("t1", "user", "I am Ann.", 0.9, "1/0"),),
        Unanswered(Problem(kind="invalid", message="embedder: there are none", field="embedder")),
    ]

    async def heard(message: Message) -> None:
        assert message.reply is not None
        await connection.publish(message.reply, codec.encode(answers.pop(0)))

    await connection.subscribe(subjects.MEMORY, heard, "memory")
    told, counted = list[Searched](), Counted()
    about: dict[str, Any] = {"ids": counted, "clock": counted, "chance": counted, "tenant": "acme"}
    about |= {"models": (), "agents": (), "aside": told.append}
    bridge = Bridge(connection=connection, read_back=None, state=None, **about)  # type: ignore[arg-type]
    transport = httpx2.ASGITransport(bridge.application())
    async with httpx2.AsyncClient(transport=transport, base_url="http://door") as client:
        headers = {"traceparent": TRACE, "x-request-id": "q1"}
        body = {"text": "who am I", "scope": "resource", "resource": "ann"}
        found = await client.post("/api/recall", json=body, headers=headers)
        assert found.json()["data"][0]["content"] == "I am Ann."
        refused = await client.post("/api/recall", json={**body, "scope": "tenant"}, headers=headers)
        assert refused.status_code == 400
    first, second = told
    assert first[:7] == ("acme", "q1", TRACE, "resource", "who am I", 1, first.start)
    assert first.start < first.end
    assert (first.problem, first.resource) == ("", "ann")
    assert (second.store, second.resource, second.found) == ("tenant", "", 0)
    assert second.problem
