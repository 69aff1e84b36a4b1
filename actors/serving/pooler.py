"""A model of whole texts as a service on the bus: what waits together is computed together, and only so much waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import msgspec

from bus import subjects
from bus.connection import Connection
from bus.conversation import Send, offer
from engine.errors import BadRequest, NotFinite
from schemas import codec
from schemas.pooling import (
    Classify,
    Embed,
    Labelled,
    PoolAsked,
    PooledText,
    PoolRefused,
    PoolTold,
    Score,
    Scores,
    Vectors,
)
from schemas.runs import Problem

log = logging.getLogger(__name__)

_AGAIN_MS: Final = 500
_TOGETHER: Final = 16
"""Requests that are computed together at most."""


class PooledModel(Protocol):
    """Computes: `engine.pooling.Pooler`, which is not imported here because torch is not."""

    def embed_and_count(
        self, texts: Sequence[PooledText], *, dimensions: int | None, too_long: Literal["cut", "refuse"]
    ) -> tuple[list[Any], list[int]]:
        """Give a vector of each text, and how many tokens it has."""

    def score_and_count(
        self, pairs: Sequence[tuple[str, str]], *, too_long: Literal["cut", "refuse"]
    ) -> tuple[list[float], int]:
        """Give a number for each pair, and how many tokens were computed."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What texts are told apart by."""

    def classify_and_count(
        self, texts: Sequence[PooledText], *, too_long: Literal["cut", "refuse"]
    ) -> tuple[list[list[float]], int]:
        """Give the chances of every label for each text, and how many tokens were computed."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    asked: PoolAsked
    told: asyncio.Future[PoolTold]


class PoolerActor:
    """Serves one model."""

    def __init__(self, connection: Connection, name: str, model: PooledModel, most_waiting: int) -> None:
        self._connection = connection
        self._name = name
        self._model = model
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue(most_waiting)
        self._computed = 0
        self.offered = False
        """Whether it can be asked."""

    def statistics(self) -> dict[str, int]:
        """Say how it does."""
        return {"waiting": self._waiting.qsize(), "computed": self._computed}

    async def run(self, version: str) -> None:
        """Serve until cancelled."""
        service = f"pooler-{subjects.encoded(self._name)}"
        subject = subjects.ask_pooler(self._name)
        await offer(self._connection, service, version, subject, {"model": self._name}, self._answer)
        self.offered = True
        while True:
            together = [await self._waiting.get()]
            while len(together) < _TOGETHER and not self._waiting.empty():
                together.append(self._waiting.get_nowait())
            told = await asyncio.to_thread(self._compute, [one.asked for one in together])
            for one, answer in zip(together, told, strict=True):
                if not one.told.done():
                    one.told.set_result(answer)
            self._computed += len(together)

    async def _answer(self, data: bytes, send: Send) -> None:
        await send(codec.encode(await self._told(data)))

    async def _told(self, data: bytes) -> PoolTold:
        try:
            asked = msgspec.json.decode(data, type=PoolAsked)
        except msgspec.DecodeError as error:
            return PoolRefused(Problem(kind="invalid", message=str(error)))
        waiting = _Waiting(asked, asyncio.get_running_loop().create_future())
        try:
            self._waiting.put_nowait(waiting)
        except asyncio.QueueFull:
            message = f"{self._waiting.maxsize} requests wait for model {self._name!r}: try again later"
            return PoolRefused(Problem(kind="overloaded", message=message, retry_after_ms=_AGAIN_MS))
        return await waiting.told

    def _compute(self, asked: Sequence[PoolAsked]) -> list[PoolTold]:
        """Answer requests; those for vectors of one kind are computed as one, unless one of them is wrong."""
        answers: dict[int, PoolTold] = {}
        alike: dict[tuple[int | None, str], dict[int, Embed]] = {}
        for at, one in enumerate(asked):
            if isinstance(one, Embed):
                alike.setdefault((one.dimensions, one.too_long), {})[at] = one
            else:
                answers[at] = self._alone(one)
        for several in alike.values():
            together = self._together(several)
            answers |= together or {at: self._alone(one) for at, one in several.items()}
        return [answers[at] for at in range(len(asked))]

    def _together(self, asked: Mapping[int, Embed]) -> dict[int, PoolTold]:
        """Compute all at once; nothing if one of them is wrong."""
        try:
            return dict(zip(asked, self._embedded(list(asked.values())), strict=True))
        except (BadRequest, NotFinite):
            return {}

    def _alone(self, asked: PoolAsked) -> PoolTold:
        """Compute one."""
        try:
            match asked:
                case Embed():
                    return self._embedded([asked])[0]
                case Classify():
                    return self._labelled(asked)
                case _:
                    return self._scored(asked)
        except BadRequest as error:
            return PoolRefused(Problem(kind="invalid", message=str(error), field=error.field))
        except NotFinite as error:
            log.warning("model %s: %s", self._name, error)
            return PoolRefused(Problem(kind="engine", message="the model could not compute this: see its log"))

    def _embedded(self, asked: Sequence[Embed]) -> list[Vectors]:
        """Compute vectors of one kind."""
        texts = [text for one in asked for text in one.texts]
        about = asked[0]
        vectors, counts = self._model.embed_and_count(texts, dimensions=about.dimensions, too_long=about.too_long)
        told, first = list[Vectors](), 0
        for one in asked:
            last = first + len(one.texts)
            data = b"".join(vector.astype("<f4").tobytes() for vector in vectors[first:last])
            told.append(Vectors(len(vectors[first]), data, sum(counts[first:last])))
            first = last
        return told

    def _labelled(self, asked: Classify) -> Labelled:
        chances, tokens = self._model.classify_and_count(asked.texts, too_long=asked.too_long)
        return Labelled(self._model.labels, tuple(map(tuple, chances)), tokens)

    def _scored(self, asked: Score) -> Scores:
        scores, tokens = self._model.score_and_count(asked.pairs, too_long=asked.too_long)
        return Scores(tuple(scores), tokens)
