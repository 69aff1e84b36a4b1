"""Vectors of a real record, by embedders that refuse some texts, or all, or give what are no vectors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from actors.errors import CallFailed
from actors.memory import indexing
from actors.memory.indexing import DELAYS_S, PASSING, catch_up
from bus.erasure import destroy
from bus.projecting import At
from bus.store import Store
from bus.unindexed import index_late, take_due, try_again, unindexed
from bus.vectors import nearest, start_again
from infra.recollections import MemoryService
from schemas.recollections import UnindexedTold
from schemas.runs import Problem
from tests.actors.processors.test_recall import LOG, WORDS, filled

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(60)]

TOO_LONG = CallFailed(Problem("too_long", "m: this text has too many tokens \ud800"))
BUSY = CallFailed(Problem("overloaded", "later"))


class Picky:
    """An embedder that takes no text that it is told not to, or nothing at all."""

    name = "picky"

    def __init__(self, refused: str, failure: Exception) -> None:
        self.refused = refused
        self.failure = failure
        self.asked = list[str]()

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed, or refuse them all."""
        self.asked += texts
        if any(self.refused in text for text in texts):
            raise self.failure
        return await WORDS.embed(texts)


async def found(store: Store, name: str) -> set[str]:
    (vector,) = await WORDS.embed(["How is my cat called?"])
    hits = await nearest(store, name, ("acme", "t1", "ann"), "thread", vector, 99)
    return {hit.spoken.message.content for hit in hits}


@pytest.mark.parametrize("failure", [TOO_LONG, ValueError("The weather is secret")])
async def test_a_text_that_is_always_refused_holds_up_no_other_and_is_told_with_the_reason(
    store: Store, failure: Exception
) -> None:
    await filled(store, *LOG)
    picky = Picky("weather", failure)
    assert await catch_up(store, picky) == 5
    assert await catch_up(store, picky) == 0
    assert len(await found(store, picky.name)) == 2
    (left,) = await unindexed(store, "acme", 99)
    assert (left.thread, left.embedder, left.place, left.tries, left.aside) == ("t1", "picky", At(1, 4, 0), 1, False)
    assert ("too many tokens ?" in left.reason) == (failure is TOO_LONG)
    assert "secret" not in left.reason  # what was said is not written down in the clear
    assert await unindexed(store, "other", 99) == []
    await start_again(store, picky.name)
    assert await unindexed(store, "acme", 99) == []


async def test_it_is_tried_so_often_then_set_aside_and_again_when_somebody_asks(store: Store) -> None:
    await filled(store, *LOG)
    picky = Picky("weather", TOO_LONG)
    await catch_up(store, picky, delays_s=(0.0, 0.0))
    assert picky.asked.count("The weather is fine today.") == 3 + len(_halves(6))
    (left,) = await unindexed(store, "acme", 99)
    assert (left.tries, left.aside) == (3, True)
    picky.refused = "nobody says this"
    assert await catch_up(store, picky) == 0
    assert await try_again(store, "other") == 0
    assert await try_again(store, "acme") == 1
    assert await catch_up(store, picky) == 1
    assert "The weather is fine today." in await found(store, picky.name)
    assert await unindexed(store, "acme", 99) == []


def _halves(count: int) -> list[int]:
    """How large the pages were of which one text is refused, before it was alone."""
    return [] if count == 1 else [count, *_halves(count - count // 2)]


async def test_what_was_refused_goes_with_its_thread_also_while_it_is_tried_again(store: Store) -> None:
    await filled(store, *LOG[:4])
    picky = Picky("weather", TOO_LONG)
    await catch_up(store, picky)
    assert await try_again(store, "acme") == 1
    (taken,) = await take_due(store, picky.name, DELAYS_S, 9)
    assert await take_due(store, picky.name, DELAYS_S, 9) == []  # nobody else tries it meanwhile
    await destroy(store, [], "acme", "t1")
    assert await unindexed(store, "acme", 99) == []
    (vector,) = await WORDS.embed(["any"])
    await index_late(store, picky.name, taken, vector)
    assert await found(store, picky.name) == set()


@pytest.mark.parametrize(("refused", "failure"), [("", TOO_LONG), ("", ValueError("broken")), ("weather", BUSY)])
async def test_an_embedder_that_takes_nothing_now_is_waited_for(store: Store, refused: str, failure: Exception) -> None:
    await filled(store, *LOG)
    picky = Picky(refused, failure)
    with pytest.raises(CallFailed):
        await catch_up(store, picky)
    assert await unindexed(store, "acme", 99) == []
    picky.refused = "nobody says this"
    assert await catch_up(store, picky) == 6


async def test_what_is_tried_again_of_an_embedder_that_takes_nothing_is_not_counted(store: Store) -> None:
    await filled(store, *LOG)
    picky = Picky("weather", TOO_LONG)
    await catch_up(store, picky)
    await try_again(store, "acme")
    picky.refused = ""
    with pytest.raises(CallFailed):
        await catch_up(store, picky)
    assert [one.tries for one in await unindexed(store, "acme", 9)] == [0]


async def test_a_text_that_seems_to_overload_its_embedder_for_ever_is_found_out(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(store, *LOG)
    picky = Picky("weather", BUSY)
    monkeypatch.setattr(indexing, "_RETRY_S", 0.0)
    monkeypatch.setattr(indexing, "_POLL_S", 0.01)

    async def opened() -> Store:
        return store

    indexes = asyncio.create_task(indexing.index(opened, picky))
    try:
        async with asyncio.timeout(20):
            while not await unindexed(store, "acme", 9):  # noqa: ASYNC110  nothing tells of it
                await asyncio.sleep(0.01)
    finally:
        indexes.cancel()
    assert len(await found(store, picky.name)) == 2
    assert picky.failure.problem.kind in PASSING


class Endless(Picky):
    """An embedder that never ends with some texts."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed, or not."""
        if any(self.refused in text for text in texts):
            await asyncio.Event().wait()
        return await WORDS.embed(texts)


async def test_a_text_with_which_the_embedder_never_ends_holds_up_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "_LIMIT_S", 0.5)
    monkeypatch.setattr(indexing, "_EACH_S", 0.0)
    await filled(store, *LOG)
    assert await catch_up(store, Endless("weather", BUSY), ()) == 5
    assert [one.reason for one in await unindexed(store, "acme", 9)] == ["picky: no vectors within 0.5 s"]


class Strange:
    """An embedder whose vectors are none."""

    name = "strange"

    def __init__(self, vectors: Any) -> None:
        self.vectors = vectors

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed, but for one text."""
        good = await WORDS.embed(texts)
        strange: list[list[float]] = self.vectors
        return strange if any("weather" in text for text in texts) else good


@pytest.mark.parametrize(
    "vectors", [None, [], [[]], [[math.nan, 1.0]], [[math.inf] * 256], [[1e300] * 256], [[0.0] * 256], [["a"]]]
)
async def test_what_is_no_vector_is_not_kept(store: Store, vectors: Any) -> None:
    await filled(store, *LOG)
    assert await catch_up(store, Strange(vectors)) == 5
    assert [left.thread for left in await unindexed(store, "acme", 9)] == ["t1"]


async def test_vectors_of_another_width_under_the_same_name_spoil_no_search(store: Store) -> None:
    await filled(store, *LOG[:2])
    await catch_up(store, WORDS)
    await store.rows("UPDATE spoken_vector SET embedding = '{1, 0}'")
    assert await found(store, WORDS.name) == set()


async def test_programs_ask_what_is_not_found_and_have_it_tried_again_for_their_tenant_alone(store: Store) -> None:
    await filled(store, *LOG)
    await catch_up(store, Picky("weather", TOO_LONG))

    async def opened() -> Store:
        return store

    service = MemoryService(opened, [WORDS])
    told = msgspec.json.decode(await service.answer("unindexed", "acme", b"{}"), type=list[UnindexedTold])
    assert [(one.thread, one.place, one.tries, one.aside) for one in told] == [("t1", "4/0", 1, False)]
    assert await service.answer("unindexed", "other", b"") == b"[]"
    assert msgspec.json.decode(await service.answer("reindex", "other", b"{}"))["count"] == 0
    assert msgspec.json.decode(await service.answer("reindex", "acme", b"{}"))["count"] == 1
