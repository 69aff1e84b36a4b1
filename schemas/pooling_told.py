"""Vectors, labels, scores and ranks, as clients of OpenAI, vLLM, Jina and Cohere read them."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

VectorTold = list[float] | str
"""Numbers, or base64 of little-endian 32-bit floats."""


class PoolingUsage(Struct, frozen=True):
    """Token counts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingTold(Struct, frozen=True, tag_field="object", tag="embedding"):
    """The vector of a text."""

    index: int
    embedding: VectorTold


class Embeddings(Struct, frozen=True, tag_field="object", tag="list"):
    """The vectors of texts."""

    data: list[EmbeddingTold]
    model: str
    usage: PoolingUsage


class LabelTold(Struct, frozen=True):
    """The likeliest label of a text, and the chances of all."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class Classified(Struct, frozen=True, tag_field="object", tag="list"):
    """The labels of texts."""

    id: str
    created: int
    model: str
    data: list[LabelTold]
    usage: PoolingUsage


class PooledTold(Struct, frozen=True, tag_field="object", tag="pooling"):
    """What a model makes of a text: its vector, or the chances of labels."""

    index: int
    data: VectorTold


class Pooled(Struct, frozen=True, tag_field="object", tag="list"):
    """What a model makes of texts."""

    id: str
    created: int
    model: str
    data: list[PooledTold]
    usage: PoolingUsage


class ScoreTold(Struct, frozen=True, tag_field="object", tag="score"):
    """How well two texts match."""

    index: int
    score: float


class ScoresTold(Struct, frozen=True, tag_field="object", tag="list"):
    """How well texts match."""

    id: str
    created: int
    model: str
    data: list[ScoreTold]
    usage: PoolingUsage


class DocumentShown(Struct, frozen=True):
    """A document that was put in order."""

    text: str


class RankTold(Struct, frozen=True):
    """How near a document is to the query."""

    index: int
    """Of the document in the request."""
    relevance_score: float
    document: DocumentShown | UnsetType = UNSET


class Ranked(Struct, frozen=True):
    """Documents in order, the nearest first."""

    id: str
    model: str
    usage: PoolingUsage
    results: list[RankTold]
