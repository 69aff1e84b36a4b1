"""Vectors of models elsewhere: asked of the processes that have the keys."""

from __future__ import annotations

from typing import Final

import msgspec

from bus import subjects
from bus.connection import Connection
from bus.errors import BusError
from infra.bridge.openai import BadRequest, refusal
from schemas.pooling import Embed, EmbedElsewhere, PoolRefused, PoolTold, Vectors

_ASK_S: Final = 120.0


async def embed_elsewhere(connection: Connection, tenant: str, model: str, asked: Embed) -> Vectors:
    """Ask a model elsewhere for vectors.

    Raises:
        BadRequest: it cannot be asked that, or gives none.
    """
    if asked.too_long == "cut":
        message = f"truncate_prompt_tokens: {model} cuts no texts: leave it out"
        raise BadRequest(400, message, "truncate_prompt_tokens", "invalid_value")
    texts = tuple(text for text in asked.texts if isinstance(text, str))
    if len(texts) < len(asked.texts):
        raise BadRequest(400, f"input: {model} has tokens of its own: send texts", "input", "invalid_value")
    data = msgspec.json.encode(EmbedElsewhere(model, texts, asked.dimensions, tenant))
    try:
        reply = await connection.request(subjects.EMBED_ELSEWHERE, data, _ASK_S)
        told = msgspec.json.decode(reply.data, type=PoolTold)
    except (BusError, TimeoutError, msgspec.DecodeError) as error:
        raise BadRequest(503, f"model {model!r} does not answer: try again", None, "unavailable") from error
    if isinstance(told, PoolRefused):
        raise refusal(told.problem)
    assert isinstance(told, Vectors)
    return told
