"""Vectors, labels, scores and ranks over HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from actors.models.poolers import cut_up, parted
from infra.bridge.callers import caller_of, request_id_of
from infra.bridge.desk import Desk
from infra.bridge.doors import Door, Endpoint, Workplace, charging
from infra.bridge.guard import trace_of
from infra.bridge.openai import BadRequest, decoded
from infra.bridge.pooling.calls import PoolerCalls, too_long, usage
from infra.bridge.pooling.shapes import document, inputs, pairs_of, shown
from infra.spans.pooling import TextsPooled
from schemas.embeddings import ClassifyRequest, PoolingRequest, RerankRequest, ScoreRequest
from schemas.pooling import Classify, Embed, Labelled, PooledText, Score, Scores, Vectors
from schemas.pooling_told import (
    Classified,
    DocumentShown,
    Embeddings,
    LabelTold,
    Pooled,
    PooledTold,
    Ranked,
    RankTold,
    ScoresTold,
    ScoreTold,
    VectorTold,
)

_Told = Embeddings | Classified | Pooled | ScoresTold | Ranked
_POOLED: Final = {"embed": "embed", "encode": "embed", "classify": "classify"}
"""What may be asked of `/pooling`, and what it is here."""


@dataclass(frozen=True)
class _Pooling:
    desk: Desk
    calls: PoolerCalls

    async def embed(self, request: Request) -> Embeddings:
        """Give vectors."""
        return await self.calls.embeddings(await request.body(), caller_of(request).tenant)

    async def classify(self, request: Request) -> Classified:
        """Give the chances of labels, as vLLM does."""
        asked = decoded(await request.body(), ClassifyRequest)
        _refuse_raw(asked.use_activation)
        told = await self._labelled(asked.model, inputs(asked.input), asked.truncate_prompt_tokens)
        chances = [list(one) for part in told for one in part.chances]
        labels = told[0].labels
        data = [LabelTold(at, labels[one.index(max(one))], one, len(one)) for at, one in enumerate(chances)]
        return Classified(*self._head("classify", asked.model), data, usage(told))

    async def pool(self, request: Request) -> Pooled:
        """Give what a model makes of texts, whichever that is, as vLLM does."""
        asked = decoded(await request.body(), PoolingRequest)
        _refuse_raw(asked.use_activation)
        texts, task = inputs(asked.input), asked.task or "embed"
        if task not in _POOLED:
            wanted = f"one of {', '.join(_POOLED)}: nothing is told of single tokens"
            raise BadRequest(400, f"task: {wanted}", "task", "invalid_value")
        told: Sequence[Vectors | Labelled]
        if _POOLED[task] == "classify":
            if asked.dimensions is not None:
                raise BadRequest(400, "dimensions: labels have none: leave it out", "dimensions", "invalid_value")
            told = await self._labelled(asked.model, texts, asked.truncate_prompt_tokens)
            data: list[VectorTold] = [list(one) for part in told for one in part.chances]
        else:
            cut = too_long(asked.truncate_prompt_tokens)
            wanted_parts = [Embed(part, asked.dimensions, cut) for part in parted(texts)]
            told = vectors = await self.calls.ask(asked.model, wanted_parts, Vectors)
            write = shown(asked.encoding_format)
            data = [write(vector) for one in vectors for vector in cut_up(one)]
        pooled = [PooledTold(at, one) for at, one in enumerate(data)]
        return Pooled(*self._head("pool", asked.model), pooled, usage(told))

    async def score(self, request: Request) -> ScoresTold:
        """Say how well texts match."""
        asked = decoded(await request.body(), ScoreRequest)
        scores, told = await self._scores(asked.model, pairs_of(asked), asked.truncate_prompt_tokens)
        data = [ScoreTold(at, score) for at, score in enumerate(scores)]
        return ScoresTold(*self._head("score", asked.model), data, usage(told))

    async def rerank(self, request: Request) -> Ranked:
        """Put documents in order."""
        asked = decoded(await request.body(), RerankRequest)
        texts = [document(one, at) for at, one in enumerate(asked.documents)]
        pairs = [(asked.query, text) for text in texts]
        scores, told = await self._scores(asked.model, pairs, asked.truncate_prompt_tokens)
        best = sorted(range(len(scores)), key=lambda at: -scores[at])[: asked.top_n or None]
        shown = asked.return_documents
        results = [RankTold(at, scores[at], DocumentShown(texts[at]) if shown else UNSET) for at in best]
        return Ranked(self.desk.ids.new("rerank-"), asked.model, usage(told), results)

    async def _labelled(self, model: str, texts: Sequence[PooledText], truncate: int | None) -> list[Labelled]:
        cut = too_long(truncate)
        return await self.calls.ask(model, [Classify(part, cut) for part in parted(texts)], Labelled)

    async def _scores(
        self, model: str, pairs: Sequence[tuple[str, str]], truncate: int | None
    ) -> tuple[list[float], list[Scores]]:
        told = await self.calls.ask(model, [Score(part, too_long(truncate)) for part in parted(pairs)], Scores)
        return [score for one in told for score in one.scores], told

    def _head(self, kind: str, model: str) -> tuple[str, int, str]:
        """Give the id of an answer, when it was made, and the model."""
        return self.desk.ids.new(f"{kind}-"), self.desk.seconds(), model


def _refuse_raw(activation: bool | None) -> None:
    """See that nobody wants numbers that are told nowhere.

    Raises:
        BadRequest: somebody does.
    """
    if activation is False:
        message = "use_activation: what is told are chances, and vectors of length one: leave it out"
        raise BadRequest(400, message, "use_activation", "invalid_value")


def _answering(desk: Desk, operation: str, endpoint: Callable[[Request], Awaitable[_Told]]) -> Endpoint:
    async def answer(request: Request) -> Response:
        """Answer, count what it took against the key, and have it told."""
        start, model, tokens, problem = desk.clock.now(), "", 0, "it came to nothing"
        try:
            told = await endpoint(request)
            model, tokens, problem = told.model, told.usage.prompt_tokens, ""
        except BadRequest as refusal:
            problem = refusal.body.error.message
            raise
        finally:
            about = (caller_of(request).tenant, request_id_of(request), trace_of(request.headers), operation)
            desk.aside(TextsPooled(*about, model, tokens, start, desk.clock.now(), problem))
        charging(request)(tokens)
        return Response(msgspec.json.encode(told), media_type="application/json")

    return answer


def pooling_doors(desk: Desk) -> list[Door]:
    """List them."""
    pooling = _Pooling(desk, PoolerCalls(desk.connection, desk.poolers))
    paths: dict[str, tuple[str, Callable[[Request], Awaitable[_Told]]]] = {
        "/v1/embeddings": ("embeddings", pooling.embed),
        "/classify": ("classify", pooling.classify),
        "/pooling": ("pooling", pooling.pool),
        "/v1/score": ("score", pooling.score),
        "/score": ("score", pooling.score),
        "/v1/rerank": ("rerank", pooling.rerank),
        "/v2/rerank": ("rerank", pooling.rerank),
        "/rerank": ("rerank", pooling.rerank),
    }
    return [Workplace(path, _answering(desk, *asked), "inference", methods=("POST",)) for path, asked in paths.items()]
