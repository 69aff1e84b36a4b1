"""Vectors, labels, scores and ranks over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from actors.models.poolers import cut_up, parted
from infra.bridge.callers import caller_of
from infra.bridge.desk import Desk
from infra.bridge.doors import Door, Workplace, charging
from infra.bridge.openai import BadRequest, decoded
from infra.bridge.pooling.calls import PoolerCalls, too_long, usage
from infra.bridge.pooling.shapes import document, inputs, pairs_of, shown
from schemas.embeddings import ClassifyRequest, PoolingRequest, RerankRequest, ScoreRequest
from schemas.pooling import Classify, Embed, Labelled, PooledText, Score, Scores, Vectors

_POOLED: Final = {"embed": "embed", "encode": "embed", "classify": "classify"}
"""What may be asked of `/pooling`, and what it is here."""


@dataclass(frozen=True)
class _Pooling:
    desk: Desk
    calls: PoolerCalls

    async def embed(self, request: Request) -> Response:
        """Give vectors."""
        tenant = caller_of(request).tenant
        return _charged(request, await self.calls.embeddings(await request.body(), tenant))

    async def classify(self, request: Request) -> Response:
        """Give the chances of labels, as vLLM does."""
        asked = decoded(await request.body(), ClassifyRequest)
        _refuse_raw(asked.use_activation)
        told = await self._labelled(asked.model, inputs(asked.input), asked.truncate_prompt_tokens)
        chances = [list(one) for part in told for one in part.chances]
        labels = told[0].labels
        data = [
            {"index": at, "label": labels[one.index(max(one))], "probs": one, "num_classes": len(one)}
            for at, one in enumerate(chances)
        ]
        return _charged(request, self._head("classify", asked.model) | {"data": data, "usage": usage(told)})

    async def pool(self, request: Request) -> Response:
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
            data: list[Any] = [list(one) for part in told for one in part.chances]
        else:
            cut = too_long(asked.truncate_prompt_tokens)
            wanted_parts = [Embed(part, asked.dimensions, cut) for part in parted(texts)]
            told = vectors = await self.calls.ask(asked.model, wanted_parts, Vectors)
            write = shown(asked.encoding_format)
            data = [write(vector) for one in vectors for vector in cut_up(one)]
        pooled = [{"index": at, "object": "pooling", "data": one} for at, one in enumerate(data)]
        return _charged(request, self._head("pool", asked.model) | {"data": pooled, "usage": usage(told)})

    async def score(self, request: Request) -> Response:
        """Say how well texts match."""
        asked = decoded(await request.body(), ScoreRequest)
        scores, told = await self._scores(asked.model, pairs_of(asked), asked.truncate_prompt_tokens)
        data = [{"object": "score", "index": at, "score": score} for at, score in enumerate(scores)]
        return _charged(request, self._head("score", asked.model) | {"data": data, "usage": usage(told)})

    async def rerank(self, request: Request) -> Response:
        """Put documents in order."""
        asked = decoded(await request.body(), RerankRequest)
        texts = [document(one, at) for at, one in enumerate(asked.documents)]
        pairs = [(asked.query, text) for text in texts]
        scores, told = await self._scores(asked.model, pairs, asked.truncate_prompt_tokens)
        best = sorted(range(len(scores)), key=lambda at: -scores[at])[: asked.top_n or None]
        results = [
            {"index": at, "relevance_score": scores[at]}
            | ({"document": {"text": texts[at]}} if asked.return_documents else {})
            for at in best
        ]
        head = {"id": self.desk.ids.new("rerank-"), "model": asked.model}
        return _charged(request, {**head, "usage": usage(told), "results": results})

    async def _labelled(self, model: str, texts: Sequence[PooledText], truncate: int | None) -> list[Labelled]:
        cut = too_long(truncate)
        return await self.calls.ask(model, [Classify(part, cut) for part in parted(texts)], Labelled)

    async def _scores(
        self, model: str, pairs: Sequence[tuple[str, str]], truncate: int | None
    ) -> tuple[list[float], list[Scores]]:
        told = await self.calls.ask(model, [Score(part, too_long(truncate)) for part in parted(pairs)], Scores)
        return [score for one in told for score in one.scores], told

    def _head(self, kind: str, model: str) -> dict[str, Any]:
        created = self.desk.seconds()
        return {"id": self.desk.ids.new(f"{kind}-"), "object": "list", "created": created, "model": model}


def _refuse_raw(activation: bool | None) -> None:
    """See that nobody wants numbers that are told nowhere.

    Raises:
        BadRequest: somebody does.
    """
    if activation is False:
        message = "use_activation: what is told are chances, and vectors of length one: leave it out"
        raise BadRequest(400, message, "use_activation", "invalid_value")


def _charged(request: Request, value: dict[str, Any]) -> Response:
    """Answer, and count what it took against the key."""
    charging(request)(value["usage"]["prompt_tokens"])
    return Response(msgspec.json.encode(value), media_type="application/json")


def pooling_doors(desk: Desk) -> list[Door]:
    """List them."""
    pooling = _Pooling(desk, PoolerCalls(desk.connection, desk.poolers))
    paths: dict[str, Callable[..., Any]] = {
        "/v1/embeddings": pooling.embed,
        "/classify": pooling.classify,
        "/pooling": pooling.pool,
        "/v1/score": pooling.score,
        "/score": pooling.score,
        "/v1/rerank": pooling.rerank,
        "/v2/rerank": pooling.rerank,
        "/rerank": pooling.rerank,
    }
    return [Workplace(path, endpoint, "inference", methods=("POST",)) for path, endpoint in paths.items()]
