"""What is asked of a model that gives vectors or scores over the bus, and what it answers."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from schemas.commands import TokenId
from schemas.runs import Problem
from schemas.wire import Wire

MOST_TEXTS = 64
"""In one request over the bus: more are several requests."""

PooledText = str | tuple[TokenId, ...]
"""A text, or the tokens that it is."""


class Embed(Wire, frozen=True, tag="embed"):
    """The vectors of texts. `rpc.pooler-<name>.ask`, answered with `Vectors` or `PoolRefused`."""

    texts: Annotated[tuple[PooledText, ...], msgspec.Meta(min_length=1, max_length=MOST_TEXTS)]
    dimensions: int | None = None
    too_long: Literal["cut", "refuse"] = "refuse"


class EmbedElsewhere(Wire, frozen=True):
    """The vectors of texts by a model elsewhere. `rpc.embeddings.ask`, answered with `Vectors` or `PoolRefused`."""

    model: str
    """`provider/model`."""
    texts: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=MOST_TEXTS)]
    dimensions: int | None = None
    tenant: str = ""
    """Whose budget it is."""


class Score(Wire, frozen=True, tag="score"):
    """How well the texts of each pair match. Answered with `Scores` or `PoolRefused`."""

    pairs: Annotated[tuple[tuple[str, str], ...], msgspec.Meta(min_length=1, max_length=MOST_TEXTS)]
    too_long: Literal["cut", "refuse"] = "refuse"


class Classify(Wire, frozen=True, tag="classify"):
    """The chances of a model's labels for texts. Answered with `Labelled` or `PoolRefused`."""

    texts: Annotated[tuple[PooledText, ...], msgspec.Meta(min_length=1, max_length=MOST_TEXTS)]
    too_long: Literal["cut", "refuse"] = "refuse"


PoolAsked = Embed | Score | Classify


class Vectors(Wire, frozen=True, tag="vectors"):
    """One for each text, of length one."""

    width: int
    data: bytes
    """Numbers of 32 bits, the least significant byte first, one vector after another."""
    tokens: int
    """Of all texts."""


class Scores(Wire, frozen=True, tag="scores"):
    """One for each pair."""

    scores: tuple[float, ...]
    tokens: int


class Labelled(Wire, frozen=True, tag="labelled"):
    """The chances of every label, one list for each text, in the order of the labels."""

    labels: tuple[str, ...]
    chances: tuple[tuple[float, ...], ...]
    tokens: int


class PoolRefused(Wire, frozen=True, tag="refused"):
    """There is no answer."""

    problem: Problem


PoolTold = Vectors | Scores | Labelled | PoolRefused
