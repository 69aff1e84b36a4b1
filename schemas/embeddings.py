"""Requests for vectors and scores, as clients of OpenAI, vLLM, Jina and Cohere write them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from schemas.commands import TokenId
from schemas.wire import Wire

MOST_INPUTS = 2048
Tokens = Annotated[tuple[TokenId, ...], msgspec.Meta(min_length=1)]
Truncate = Annotated[int, msgspec.Meta(ge=-1, lt=1 << 31)]


class EmbeddingRequest(Wire, frozen=True, kw_only=True):
    """`POST /v1/embeddings`."""

    model: str
    input: str | list[int | str | list[int]]
    """One text or its tokens, or several of one kind."""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    truncate_prompt_tokens: Truncate | None = None
    """-1 cuts what is too long; left out, that is refused."""
    user: str | None = None
    messages: Any = None
    """From here on fields that are known and not served."""
    embed_dtype: Any = None
    endianness: Any = None
    truncation_side: Any = None
    add_special_tokens: Any = None
    priority: Any = None
    cache_salt: Any = None


class ClassifyRequest(Wire, frozen=True, kw_only=True):
    """`POST /classify`, as vLLM has it."""

    model: str
    input: str | list[int | str | list[int]]
    truncate_prompt_tokens: Truncate | None = None
    use_activation: bool | None = None
    user: str | None = None


class PoolingRequest(Wire, frozen=True, kw_only=True):
    """`POST /pooling`, as vLLM has it."""

    model: str
    input: str | list[int | str | list[int]]
    task: str | None = None
    """`embed` unless given, or `classify`."""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    truncate_prompt_tokens: Truncate | None = None
    use_activation: bool | None = None
    user: str | None = None


class ScoreRequest(Wire, frozen=True, kw_only=True):
    """`POST /v1/score`: one text and many, or as many on both sides."""

    model: str
    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    queries: str | list[str] | None = None
    """The same under newer names."""
    documents: str | list[str] | None = None
    truncate_prompt_tokens: Truncate | None = None


class RerankRequest(Wire, frozen=True, kw_only=True):
    """`POST /v1/rerank`, as Jina and Cohere have it."""

    model: str
    query: str
    documents: Annotated[list[str | dict[str, Any]], msgspec.Meta(min_length=1, max_length=MOST_INPUTS)]
    top_n: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """0 is all."""
    return_documents: bool = True
    truncate_prompt_tokens: Truncate | None = None
