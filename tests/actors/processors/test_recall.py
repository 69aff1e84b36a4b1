"""Semantic recall on a real record: vectors made from it, searched within a scope, and shown with what was around."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.agent.definition import Agent
from actors.memory.embedding import Embedder, WordEmbedder
from actors.memory.indexing import catch_up
from actors.memory.pooled import PooledEmbedder
from actors.models.provider import ModelCall
from actors.processors.processor import About
from actors.processors.recall import RecordedLibrary, SemanticRecall
from bus.errors import Unavailable
from bus.store import Store
from bus.vectors import Scope, nearest, start_again
from infra.settings import EMBEDDED_CHECKPOINT
from schemas.generation import Sampling
from schemas.memory import ThreadCreated, ThreadDeleted
from schemas.messages import Message, Usage
from schemas.runs import MessageAdded, ModelReturned
from tests.bus.test_projector import write
from tests.bus.test_threads import events

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(60)]

WORDS = WordEmbedder()


def user(text: str) -> MessageAdded:
    return MessageAdded(message=Message("user", text))


def answer(text: str, finish: Any = "stop") -> Any:
    return ModelReturned("e", text, finish, Usage())


LOG = (
    ("acme", "t1", ThreadCreated(resource="ann")),
    ("acme", "t1", user("My cat is called Mitzi and she is grey.")),
    ("acme", "t1", answer("What a lovely name for a cat!")),
    ("acme", "t1", user("The weather is fine today.")),
    ("acme", "t2", ThreadCreated(resource="ann")),
    ("acme", "t2", user("I cycle to work on Tuesdays.")),
    ("acme", "t3", ThreadCreated(resource="bob")),
    ("acme", "t3", user("My cat is called Tom.")),
    ("other", "t1", user("My cat is called Felix.")),
    ("acme", "t4", user("My cat is called Gone.")),
    ("acme", "t4", ThreadDeleted()),
    ("acme", "t1", answer("broken", "abort")),
)


async def filled(store: Store, *told: Any) -> None:
    await write(store, [stored._replace(fact=_of_run(stored.fact)) for stored in events(*told)])


def _of_run(fact: Any) -> Any:
    return msgspec.structs.replace(fact, kind="run") if fact.type == "model.returned" else fact


def about(store: Store, text: str, *, thread: str = "t9", resource: str = "ann", run: str = "r1") -> About:
    async def opened() -> Store:
        return store

    call = ModelCall(f"{run}-1-m", "m", (Message("user", text),), (), Sampling(), "acme", thread)
    return About(call, library=RecordedLibrary(opened), resource=resource)


async def recalled(store: Store, text: str, recall: SemanticRecall, **where: Any) -> str:
    of = about(store, text, **where)
    assert of.call is not None
    (message,) = await recall.prompt(of.call.messages, of)
    assert message.content.endswith(text)
    return message.content


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("scope", "found"), [("thread", {"t1"}), ("resource", {"t1", "t2"}), ("tenant", {"t1", "t2", "t3"})]
)
async def test_a_search_sees_its_scope_alone_with_pgvector_and_without(
    store: Store, scope: Scope, found: set[str], fast: bool
) -> None:
    if not fast:
        await store.rows("DROP EXTENSION vector")
    await filled(store, *LOG)
    assert await catch_up(store, WORDS) == 6
    (vector,) = await WORDS.embed(["How is my cat called?"])
    hits = await nearest(store, WORDS.name, ("acme", "t1", "ann"), scope, vector, 99)
    assert {hit.spoken.thread for hit in hits} == found
    assert hits[0].spoken.message.content.startswith("My cat is called")
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert 0.3 < hits[0].score <= 1.0


async def test_what_was_said_long_ago_is_shown_with_what_was_around_it_and_noted_by_its_place(store: Store) -> None:
    await filled(store, *LOG)
    await catch_up(store, WORDS)
    of = about(store, "How is my cat called?")
    assert of.call is not None
    (shown,) = await SemanticRecall(WORDS, count=1).prompt(of.call.messages, of)
    assert shown.content == (
        "<recalled>\nuser: My cat is called Mitzi and she is grey.\n"
        "assistant: What a lovely name for a cat!\n</recalled>\n\nHow is my cat called?"
    )
    assert [(done.action, done.reason) for done in of.done] == [("noticed", "t1 2/0")]


async def test_of_what_is_very_long_as_much_is_shown_as_goes_by_its_vector(store: Store) -> None:
    await filled(store, LOG[0], ("acme", "t1", user("My cat is called Mitzi. " * 100_000)), LOG[2])
    await catch_up(store, WORDS)
    shown = await recalled(store, "How is my cat called?", SemanticRecall(WORDS))
    assert "user: My cat is called Mitzi." in shown
    assert len(shown) < 5000


async def test_nothing_near_is_nothing_recalled_and_nobody_else_is_heard(store: Store) -> None:
    await filled(store, *LOG)
    await catch_up(store, WORDS)
    assert await recalled(store, "Quantum chromodynamics?", SemanticRecall(WORDS)) == "Quantum chromodynamics?"
    stranger = await recalled(store, "How is my cat called?", SemanticRecall(WORDS), resource="eve")
    assert stranger == "How is my cat called?"
    everybody = await recalled(store, "How is my cat called?", SemanticRecall(WORDS, scope="tenant"), resource="")
    assert "Tom" in everybody
    assert "Felix" not in everybody


async def test_each_step_of_a_run_is_shown_the_same(store: Store) -> None:
    await filled(store, *LOG[:4])
    await catch_up(store, WORDS)
    recall = SemanticRecall(WORDS)
    first = await recalled(store, "How is my cat called?", recall)
    await store.rows("DELETE FROM spoken_vector")
    assert await recalled(store, "How is my cat called?", recall) == first
    assert await recalled(store, "How is my cat called?", recall, run="r2") == "How is my cat called?"


async def test_vectors_can_be_made_again_and_those_of_a_deleted_thread_go_with_it(store: Store) -> None:
    await filled(store, *LOG)
    await catch_up(store, WORDS)
    sql = "SELECT * FROM spoken_vector ORDER BY embedder, incarnation, seq, idx"
    before = await store.rows(sql)
    assert {row["thread"] for row in before} == {"t1", "t2", "t3"}
    assert await catch_up(store, WORDS) == 0
    await start_again(store, WORDS.name)
    assert await catch_up(store, WORDS) == 6
    assert await store.rows(sql) == before


class Broken:
    """An embedder that breaks in some way."""

    name = WORDS.name

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    async def embed(self, texts: Sequence[str]) -> Any:
        """Break."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(
    "outcome", [RuntimeError("I am broken"), TimeoutError(), None, [], [[]], [[math.nan]], [["a"]], [[1.0], [1.0]]]
)
async def test_with_an_embedder_that_breaks_the_question_is_asked_as_it_is(store: Store, outcome: Any) -> None:
    await filled(store, *LOG)
    await catch_up(store, WORDS)
    of = about(store, "How is my cat called?")
    assert of.call is not None
    assert await SemanticRecall(Broken(outcome)).prompt(of.call.messages, of) == of.call.messages
    assert [note.reason for note in of.told()] == ["the record could not be searched"]


async def test_without_a_record_the_question_is_asked_as_it_is() -> None:
    async def away() -> Store:
        raise Unavailable("away")

    call = ModelCall("r1-1-m", "m", (Message("user", "hi"),), (), Sampling(), "acme", "t1")
    of = About(call, library=RecordedLibrary(away))
    assert await SemanticRecall(WORDS).prompt(call.messages, of) == call.messages
    assert of.done[0].reason == "the record could not be searched"


@pytest.mark.parametrize("embedder", [WORDS, PooledEmbedder(str(EMBEDDED_CHECKPOINT), device="cpu")])
async def test_an_embedder_gives_the_same_vector_of_length_one_for_the_same_text(embedder: Embedder) -> None:
    texts = ["a cat", "a dog", "a cat", ""]
    vectors = await embedder.embed(texts)
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-6)
    assert all(sum(value * value for value in vector) == pytest.approx(1.0, abs=1e-4) for vector in vectors)
    assert Path(embedder.name).name == embedder.name


def test_an_agent_brings_its_embedder_along() -> None:
    agent = Agent("demo", "", processors=(SemanticRecall(WORDS),))
    assert replace(agent, name="other").processors == agent.processors
