"""Vectors of the stack's own models, asked over a real bus of what answers as the pooler's process does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import numpy as np
import pytest

from actors.errors import CallFailed
from actors.models.embedding import Embeddings, RoutedEmbedder
from actors.models.poolers import Poolers
from actors.models.remote import Outside
from actors.serving.pooler import PoolerActor
from actors.testing import FixedClock
from bus.connection import Connection
from engine.errors import BadRequest
from schemas.pooling import PooledText
from tests.actors.models.calls import REGISTRY

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(20)]


class Lengths:
    """A model whose vector of a text says how long it is."""

    labels = ()

    def __init__(self) -> None:
        self.asked: list[tuple[int, int | None, str]] = []

    def embed_and_count(
        self, texts: Sequence[PooledText], *, dimensions: int | None, too_long: Literal["cut", "refuse"]
    ) -> tuple[list[Any], list[int]]:
        self.asked.append((len(texts), dimensions, too_long))
        if any(text == "bad" for text in texts):
            raise BadRequest("input", "not this one")
        return [np.asarray([len(text), 0.5], np.float32) for text in texts], [1] * len(texts)

    def score_and_count(self, pairs: Any, *, too_long: Any) -> Any:
        raise NotImplementedError

    def classify_and_count(self, texts: Any, *, too_long: Any) -> Any:
        raise NotImplementedError


@asynccontextmanager
async def served(connection: Connection, model: Lengths) -> AsyncIterator[None]:
    actor = PoolerActor(connection, "vectors", model, 100)
    running = asyncio.create_task(actor.run("1"))
    try:
        async with asyncio.timeout(5):
            while not actor.offered:
                await connection.flush()
        yield
    finally:
        running.cancel()
        await asyncio.wait({running})


async def _nobody() -> Any:
    raise AssertionError("no provider is asked")


def embedder(connection: Connection, model: str = "local/vectors", dimensions: int | None = None) -> RoutedEmbedder:
    made = RoutedEmbedder(model, dimensions)
    made.bind(Embeddings(REGISTRY, Outside(_nobody, {}, FixedClock(), 5.0), poolers=Poolers(connection, 5.0)))
    return made


async def test_many_texts_are_several_requests_and_come_back_in_order(connection: Connection) -> None:
    model, texts = Lengths(), ["x" * (size % 50) for size in range(100)]
    async with served(connection, model):
        vectors = await embedder(connection, dimensions=2).embed(texts)
        assert await embedder(connection).embed([]) == []
    assert vectors == [[float(max(1, len(text))), 0.5] for text in texts]
    assert sum(count for count, _, _ in model.asked) == 100
    assert max(count for count, _, _ in model.asked) <= 64
    assert {(dimensions, cut) for _, dimensions, cut in model.asked} == {(2, "cut")}


async def test_what_the_model_refuses_and_that_nobody_serves_it_are_told_apart(connection: Connection) -> None:
    with pytest.raises(CallFailed, match="no model 'vectors' gives vectors here now") as away:
        await embedder(connection).embed(["a"])
    assert away.value.problem.kind == "overloaded"  # it may come up: texts wait for it
    async with served(connection, Lengths()):
        with pytest.raises(CallFailed, match="not this one") as refused:
            await embedder(connection).embed(["bad"])
        assert refused.value.problem.kind == "invalid"
        assert await embedder(connection).embed(["good"]) == [[4.0, 0.5]]


async def test_a_provider_that_is_not_there_is_told_when_its_embedder_is_bound(connection: Connection) -> None:
    with pytest.raises(CallFailed, match="nowhere"):
        embedder(connection, "nowhere/vectors")
    assert embedder(connection).name == "local/vectors-all"
