"""What programs ask of memory, where what was said is long: every answer fits a message of the bus."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from actors.memory.embedding import WordEmbedder
from actors.memory.indexing import catch_up
from bus.store import Store
from infra.recollections import MemoryService
from schemas.memory import ThreadCreated
from schemas.messages import Message
from schemas.runs import MessageAdded
from tests.actors.processors.test_recall import filled

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(60)]

WORDS = WordEmbedder()


async def asked(store: Store, verb: str, **fields: Any) -> Any:
    async def opened() -> Store:
        return store

    answer = await MemoryService(opened, [WORDS]).answer(verb, "acme", msgspec.json.encode(fields))
    assert len(answer) < 8 << 20
    return msgspec.json.decode(answer)


def said(text: str) -> tuple[str, str, MessageAdded]:
    return ("acme", "t1", MessageAdded(message=Message("user", text)))


async def test_long_messages_are_told_a_megabyte_at_a_time_and_one_at_least(store: Store) -> None:
    texts = ["cats " * 400_000, *(f"cats {number} " * 60_000 for number in range(4))]
    await filled(store, ("acme", "t1", ThreadCreated()), *map(said, texts))
    await catch_up(store, WORDS)
    told = await asked(store, "messages", thread="t1")
    assert told["total"] == 5
    assert [one["content"] for one in told["messages"]] == texts[:1]
    told = await asked(store, "messages", thread="t1", first=1)
    assert [one["content"] for one in told["messages"]] == texts[1:3]
    found = await asked(store, "recall", text="cats", scope="thread", thread="t1", count=9)
    assert 1 <= len(found) < 5


async def test_a_message_that_fits_no_answer_is_a_problem_that_is_told(store: Store) -> None:
    await filled(store, ("acme", "t1", ThreadCreated()), said("\u0001" * 1_500_000))
    told = await asked(store, "messages", thread="t1")
    assert (told["type"], told["problem"]["kind"], told["problem"]["field"]) == ("problem", "too_long", "limit")


@pytest.mark.parametrize(
    ("verb", "fields"),
    [
        ("recall", {"text": ""}),
        ("recall", {"text": "x", "count": 10**9}),
        ("messages", {"thread": "t1", "first": -1}),
        ("messages", {"thread": "no such thread \u202e"}),
        ("unindexed", {"limit": 0}),
        ("working", {}),
        ("nothing", {}),
    ],
)
async def test_what_makes_no_sense_is_refused(store: Store, verb: str, fields: dict[str, Any]) -> None:
    told = await asked(store, verb, **fields)
    assert (told["type"], told["problem"]["kind"]) == ("problem", "invalid")


NUL = "\0"


@pytest.mark.parametrize(
    ("verb", "fields"),
    [
        ("messages", {"thread": NUL}),
        ("working", {"thread": NUL}),
        ("working", {"resource": NUL}),
        ("threads", {"text": NUL}),
        ("threads", {"resource": NUL}),
        ("threads", {"thread": NUL}),
        ("threads", {"metadata": {NUL: NUL}}),
        ("recall", {"text": "x", "thread": NUL}),
        ("recall", {"text": "x", "scope": "resource", "resource": NUL}),
    ],
)
async def test_what_postgres_cannot_hold_is_refused_and_names_the_field(
    store: Store, verb: str, fields: dict[str, Any]
) -> None:
    told = await asked(store, verb, **fields)
    assert (told["type"], told["problem"]["kind"], told["problem"]["field"]) == ("problem", "invalid", list(fields)[-1])


async def test_whatever_breaks_while_it_is_answered_is_told_at_once() -> None:
    async def opened() -> Store:
        raise ZeroDivisionError("a secret")

    answer = await MemoryService(opened, []).answer("threads", "acme", b"{}")
    told = msgspec.json.decode(answer)
    assert told["problem"]["kind"] == "engine"
    assert b"secret" not in answer


async def test_a_question_of_any_characters_and_length_is_answered(store: Store) -> None:
    await filled(store, ("acme", "t1", ThreadCreated()), said("cats"))
    await catch_up(store, WORDS)
    for text in ("x" * 2_000_000, "\u0000", "\u200b", "e\u0301\u202e", "٣"):
        assert isinstance(await asked(store, "recall", text=text, scope="tenant"), list)
