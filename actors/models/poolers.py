"""Vectors by the stack's own models of whole texts, which are asked over the bus: no model is loaded here."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

import msgspec

from actors.errors import CallFailed
from bus import subjects
from bus.connection import Connection
from bus.errors import BusError, Refused
from schemas.pooling import Embed, PoolAsked, PooledText, PoolRefused, PoolTold, Vectors
from schemas.runs import Problem

LOCAL: Final = "local/"
"""How names of models begin that this stack has."""
_MOST_TEXTS: Final = 32
"""In one request over the bus."""
_MOST_BYTES: Final = 256 << 10
"""Of their texts."""
ASK_S: Final = 120.0

Item = TypeVar("Item")


class Embedded(NamedTuple):
    """Vectors of length one, each of a text, and how many tokens those were."""

    vectors: list[list[float]]
    tokens: int


class Poolers:
    """Asks models that some process on the same NATS serves, by name."""

    def __init__(self, connection: Connection, ask_s: float = ASK_S) -> None:
        self._connection = connection
        self._ask_s = ask_s

    async def embed(self, name: str, texts: Sequence[str], dimensions: int | None = None) -> Embedded:
        """Give a vector for each text, in their order; a text that is too long is cut.

        Raises:
            CallFailed: nobody serves the model, or it gives none.
        """
        vectors, tokens = list[list[float]](), 0
        for part in parted([text or " " for text in texts]):
            told = await self._part(name, part, dimensions) if part else None
            if told is not None:
                vectors += [list(struct.unpack(f"<{told.width}f", one)) for one in cut_up(told)]
                tokens += told.tokens
        if len(vectors) != len(texts):
            message = f"model {name!r} gave {len(vectors)} vectors of {len(texts)} texts"
            raise CallFailed(Problem(kind="engine", message=message))
        return Embedded(vectors, tokens)

    async def _part(self, name: str, part: Sequence[PooledText], dimensions: int | None) -> Vectors:
        try:
            told = await ask_pooler(self._connection, name, Embed(tuple(part), dimensions, "cut"), self._ask_s)
        except Refused as error:
            message = f"a text is too much for the bus: {error.description}"
            raise CallFailed(Problem(kind="too_long", message=message)) from error
        except (BusError, TimeoutError) as error:
            message = f"no model {name!r} gives vectors here now: {error} (`pooling.model` has one served)"
            raise CallFailed(Problem(kind="overloaded", message=message)) from error
        except msgspec.DecodeError as error:
            raise CallFailed(Problem(kind="engine", message=f"model {name!r} sent no vectors: {error}")) from error
        if isinstance(told, PoolRefused):
            raise CallFailed(told.problem)
        if not isinstance(told, Vectors):
            raise CallFailed(Problem(kind="engine", message=f"model {name!r} sent no vectors"))
        return told


async def ask_pooler(connection: Connection, name: str, asked: PoolAsked, ask_s: float = ASK_S) -> PoolTold:
    """Ask a model of whole texts.

    Raises:
        Refused: it is too much for the bus.
        BusError: nobody serves it, or the bus cannot be reached.
        TimeoutError: it does not answer.
        DecodeError: of msgspec: it answers with something else.
    """
    reply = await connection.request(subjects.ask_pooler(name), msgspec.json.encode(asked), ask_s)
    told: PoolTold = msgspec.json.decode(reply.data, type=PoolTold)
    return told


def parted(items: Sequence[Item]) -> list[tuple[Item, ...]]:
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


def cut_up(told: Vectors) -> list[bytes]:
    """Give the bytes of each vector."""
    step = 4 * told.width
    return [told.data[first : first + step] for first in range(0, len(told.data), step)]
