"""Asks models of whole texts over the bus: many texts are several requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import msgspec

from actors.models.poolers import ask_pooler, cut_up, parted
from actors.models.together import together
from bus.connection import Connection
from bus.errors import BusError, Refused
from infra.bridge.openai import BadRequest, decoded, refusal
from infra.bridge.pooling.elsewhere import embed_elsewhere
from infra.bridge.pooling.shapes import inputs, shown
from schemas.embeddings import EmbeddingRequest
from schemas.pooling import Embed, Labelled, PoolAsked, PoolRefused, Scores, Vectors
from schemas.pooling_told import Embeddings, EmbeddingTold, PoolingUsage

_UNSERVED: Final[dict[str, tuple[tuple[object, ...], str]]] = {
    "messages": ((), "these models read texts: give `input`"),
    "embed_dtype": (("float32",), "numbers have 32 bits: leave it out"),
    "endianness": (("native", "little"), "the least significant byte comes first: leave it out"),
    "truncation_side": (("right",), "texts are cut at their end: leave it out"),
    "add_special_tokens": ((True,), "the tokenizer puts them around texts: leave it out, or give tokens"),
    "priority": ((0,), "who comes first is first: leave it out"),
    "cache_salt": (("",), "nothing is kept of texts: leave it out"),
}
"""By field: the values that change nothing, and what can be done."""

Told = TypeVar("Told", Vectors, Scores, Labelled)


@dataclass(frozen=True)
class PoolerCalls:
    """The models that can be asked, by their names."""

    connection: Connection
    names: tuple[str, ...]

    async def embeddings(self, body: bytes, tenant: str) -> Embeddings:
        """Answer a tenant's request for vectors; `provider/model` is asked elsewhere.

        Raises:
            BadRequest: names the field and what it should be.
        """
        asked = decoded(body, EmbeddingRequest)
        for name, (neutral, mend) in _UNSERVED.items():
            if getattr(asked, name) not in (None, *neutral):
                raise BadRequest(400, f"{name}: {mend}", name, "invalid_value")
        texts, cut = inputs(asked.input), too_long(asked.truncate_prompt_tokens)
        parts = [Embed(part, asked.dimensions, cut) for part in parted(texts)]
        if "/" in asked.model and asked.model not in self.names:
            told = await together(embed_elsewhere(self.connection, tenant, asked.model, part) for part in parts)
        else:
            told = await self.ask(asked.model, parts, Vectors)
        write = shown(asked.encoding_format)
        vectors = [write(vector) for one in told for vector in cut_up(one)]
        data = [EmbeddingTold(at, vector) for at, vector in enumerate(vectors)]
        return Embeddings(data, asked.model, usage(told))

    async def ask(self, model: str, asked: Sequence[PoolAsked], wanted: type[Told]) -> list[Told]:
        """Ask for all parts at once.

        Raises:
            BadRequest: there is no such model here, or it cannot do what is asked.
        """
        if model not in self.names:
            known = ", ".join(self.names) or "none: set pooling.model"
            message = f"model: {model!r} gives no vectors or scores here; those that do: {known}"
            raise BadRequest(404, message, "model", "model_not_found")
        return await together(self._one(model, one, wanted) for one in asked)

    async def _one(self, model: str, asked: PoolAsked, wanted: type[Told]) -> Told:
        try:
            told = await ask_pooler(self.connection, model, asked)
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


def too_long(truncate: int | None) -> Literal["cut", "refuse"]:
    """Say what becomes of a text that is too long.

    Raises:
        BadRequest: it is to be cut where a model would not cut it.
    """
    if truncate in {None, -1}:
        return "refuse" if truncate is None else "cut"
    message = "truncate_prompt_tokens: -1 cuts texts at what the model takes: give that, or leave it out"
    raise BadRequest(400, message, "truncate_prompt_tokens", "invalid_value")


def usage(told: Sequence[Vectors | Scores | Labelled]) -> PoolingUsage:
    """Count tokens as OpenAI does."""
    tokens = sum(one.tokens for one in told)
    return PoolingUsage(tokens, tokens)
