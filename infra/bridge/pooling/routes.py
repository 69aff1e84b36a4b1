"""Vectors, scores and ranks over HTTP: many texts are several requests over the bus."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from actors.models.together import together
from bus import subjects
from bus.errors import BusError, Refused
from infra.bridge.callers import caller_of
from infra.bridge.desk import Desk
from infra.bridge.doors import Door, Workplace
from infra.bridge.openai import BadRequest, decoded, refusal
from infra.bridge.pooling.elsewhere import embed_elsewhere
from schemas.embeddings import MOST_INPUTS, EmbeddingRequest, RerankRequest, ScoreRequest
from schemas.pooling import Embed, PoolAsked, PooledText, PoolRefused, PoolTold, Score, Scores, Vectors

_MOST_TEXTS: Final = 32
"""In one request over the bus."""
_MOST_BYTES: Final = 256 << 10
"""Of their texts."""
_ASK_S: Final = 120.0

Item = TypeVar("Item")
Told = TypeVar("Told", Vectors, Scores)


@dataclass(frozen=True)
class _Pooling:
    desk: Desk

    async def embed(self, request: Request) -> Response:
        """Give vectors."""
        asked = decoded(await request.body(), EmbeddingRequest)
        texts, cut = _inputs(asked), _too_long(asked.truncate_prompt_tokens)
        parts = [Embed(part, asked.dimensions, cut) for part in _parts(texts)]
        if "/" in asked.model and asked.model not in self.desk.poolers:
            caller, connection = caller_of(request), self.desk.connection
            told = await together(embed_elsewhere(connection, caller.tenant, asked.model, part) for part in parts)
        else:
            told = await self._ask(asked.model, parts, Vectors)
        shown = _as_base64 if asked.encoding_format == "base64" else _as_floats
        vectors = [shown(vector) for one in told for vector in _cut(one)]
        data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
        return _json({"object": "list", "data": data, "model": asked.model, "usage": _usage(told)})

    async def score(self, request: Request) -> Response:
        """Say how well texts match."""
        asked = decoded(await request.body(), ScoreRequest)
        pairs = _pairs(asked)
        scores, told = await self._scores(asked.model, pairs, asked.truncate_prompt_tokens)
        data = [{"object": "score", "index": at, "score": score} for at, score in enumerate(scores)]
        head = {"id": self.desk.ids.new("score-"), "object": "list", "created": self.desk.seconds()}
        return _json({**head, "model": asked.model, "data": data, "usage": _usage(told)})

    async def rerank(self, request: Request) -> Response:
        """Put documents in order."""
        asked = decoded(await request.body(), RerankRequest)
        texts = [_document(one, at) for at, one in enumerate(asked.documents)]
        pairs = [(asked.query, text) for text in texts]
        scores, told = await self._scores(asked.model, pairs, asked.truncate_prompt_tokens)
        best = sorted(range(len(scores)), key=lambda at: -scores[at])[: asked.top_n or None]
        results = [
            {"index": at, "relevance_score": scores[at]}
            | ({"document": {"text": texts[at]}} if asked.return_documents else {})
            for at in best
        ]
        head = {"id": self.desk.ids.new("rerank-"), "model": asked.model}
        return _json({**head, "usage": _usage(told), "results": results})

    async def _scores(
        self, model: str, pairs: Sequence[tuple[str, str]], truncate: int | None
    ) -> tuple[list[float], list[Scores]]:
        told = await self._ask(model, [Score(part, _too_long(truncate)) for part in _parts(pairs)], Scores)
        return [score for one in told for score in one.scores], told

    async def _ask(self, model: str, asked: Sequence[PoolAsked], wanted: type[Told]) -> list[Told]:
        """Ask for all parts at once.

        Raises:
            BadRequest: there is no such model here, or it cannot do what is asked.
        """
        if model not in self.desk.poolers:
            known = ", ".join(self.desk.poolers) or "none: set pooling.model"
            message = f"model: {model!r} gives no vectors or scores here; those that do: {known}"
            raise BadRequest(404, message, "model", "model_not_found")
        return await together(self._one(model, one, wanted) for one in asked)

    async def _one(self, model: str, asked: PoolAsked, wanted: type[Told]) -> Told:
        try:
            data = msgspec.json.encode(asked)
            reply = await self.desk.connection.request(subjects.ask_pooler(model), data, _ASK_S)
            told = msgspec.json.decode(reply.data, type=PoolTold)
        except Refused as error:
            raise BadRequest(
                413, f"a text is too much for the bus: {error.description}", "input", "too_large"
            ) from error
        except (BusError, TimeoutError, msgspec.DecodeError) as error:
            raise BadRequest(503, f"model {model!r} does not answer: try again", None, "unavailable") from error
        if isinstance(told, PoolRefused):
            raise refusal(told.problem)
        assert isinstance(told, wanted)
        return told


def _inputs(asked: EmbeddingRequest) -> list[PooledText]:
    """List the texts of a request, each as text or tokens.

    Raises:
        BadRequest: there are none, too many, or several kinds.
    """
    given = asked.input
    if isinstance(given, str):
        return [given]
    tokens = [item for item in given if isinstance(item, int)]
    if tokens and len(tokens) == len(given):
        return [tuple(tokens)]
    if tokens or not given or len(given) > MOST_INPUTS:
        wanted = f"a text, its token ids, or a list of up to {MOST_INPUTS} of either"
        raise BadRequest(400, f"input: {wanted}", "input", "invalid_value")
    return [item if isinstance(item, str) else tuple(item) for item in given if not isinstance(item, int)]


def _pairs(asked: ScoreRequest) -> list[tuple[str, str]]:
    """Pair texts; one on the left goes with all on the right.

    Raises:
        BadRequest: their numbers do not go together.
    """
    left = asked.text_1 if asked.queries is None else asked.queries
    right = asked.text_2 if asked.documents is None else asked.documents
    if not left or not right:
        name = "text_1" if not left else "text_2"
        raise BadRequest(400, f"{name}: give a text, or a list of them", name, "invalid_value")
    lefts = [left] if isinstance(left, str) else left
    rights = [right] if isinstance(right, str) else right
    if len(lefts) == 1:
        lefts = lefts * len(rights)
    if len(lefts) != len(rights) or len(rights) > MOST_INPUTS:
        message = f"text_2: as many as there are in text_1, if that has more than one; at most {MOST_INPUTS}"
        raise BadRequest(400, message, "text_2", "invalid_value")
    return list(zip(lefts, rights, strict=True))


def _document(given: str | dict[str, Any], at: int) -> str:
    text = given if isinstance(given, str) else given.get("text")
    if not isinstance(text, str):
        raise BadRequest(400, f"documents[{at}]: give its text", f"documents[{at}]", "invalid_value")
    return text


def _too_long(truncate: int | None) -> Literal["cut", "refuse"]:
    """Say what becomes of a text that is too long.

    Raises:
        BadRequest: it is to be cut where a model would not cut it.
    """
    if truncate in {None, -1}:
        return "refuse" if truncate is None else "cut"
    message = "truncate_prompt_tokens: -1 cuts texts at what the model takes: give that, or leave it out"
    raise BadRequest(400, message, "truncate_prompt_tokens", "invalid_value")


def _parts(items: Sequence[Item]) -> list[tuple[Item, ...]]:
    """Part texts, so that each part goes over the bus."""
    parts, size = [list[Item]()], 0
    for item in items:
        weight = len(msgspec.json.encode(item))
        if parts[-1] and (len(parts[-1]) == _MOST_TEXTS or size + weight > _MOST_BYTES):
            parts.append([])
            size = 0
        parts[-1].append(item)
        size += weight
    return [tuple(part) for part in parts]


def _cut(told: Vectors) -> list[bytes]:
    step = 4 * told.width
    return [told.data[first : first + step] for first in range(0, len(told.data), step)]


def _as_floats(vector: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


def _as_base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode()


def _usage(told: Sequence[Vectors | Scores]) -> dict[str, Any]:
    tokens = sum(one.tokens for one in told)
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def pooling_doors(desk: Desk) -> list[Door]:
    """List them."""
    pooling = _Pooling(desk)
    paths: dict[str, Callable[..., Any]] = {
        "/v1/embeddings": pooling.embed,
        "/v1/score": pooling.score,
        "/score": pooling.score,
        "/v1/rerank": pooling.rerank,
        "/v2/rerank": pooling.rerank,
        "/rerank": pooling.rerank,
    }
    return [Workplace(path, endpoint, "inference", methods=("POST",)) for path, endpoint in paths.items()]
