"""What a stack tells of itself: what runs, what may be given as `model`, what tokens are."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType


class VersionTold(Struct, frozen=True):
    """Which version runs."""

    version: str


class LoadTold(Struct, frozen=True):
    """How much is under way."""

    server_load: int
    """Requests."""


class ProcessHealth(Struct, frozen=True):
    """How a process does."""

    pid: int | None
    restarts: int
    ready: bool
    trouble: str | UnsetType = UNSET


class DiskHealth(Struct, frozen=True):
    """How much room there is."""

    free_mb: int
    nearly_full: bool


class Health(Struct, frozen=True):
    """How a stack does; all but the first field is told to whom its key lets see it."""

    status: Literal["ok", "degraded"]
    processes: dict[str, ProcessHealth] | UnsetType = UNSET
    disk: DiskHealth | UnsetType = UNSET


class ModelShown(Struct, frozen=True, tag_field="object", tag="model"):
    """Something that may be given as `model`, as clients of OpenAI's and of Anthropic's API read it."""

    id: str
    created: int
    """Seconds since the Unix epoch."""
    owned_by: str
    type: Literal["model"]
    display_name: str
    created_at: str
    """RFC 3339."""
    parent: str | UnsetType = UNSET
    """Of an adapter: whose it is."""


class Models(Struct, frozen=True, tag_field="object", tag="list"):
    """All that may be given as `model`."""

    data: list[ModelShown]
    has_more: bool


class Tokenized(Struct, frozen=True):
    """The tokens of a prompt."""

    tokens: tuple[int, ...]
    count: int
    max_model_len: int
    """0 where it is the model's own."""
    token_strs: tuple[str, ...] | None
    """What each adds to a text, where that was asked for."""


class Detokenized(Struct, frozen=True):
    """The text of tokens."""

    prompt: str


class TokenizerTold(Struct, frozen=True):
    """What a checkpoint says of its tokenizer, in its own words, and what it is served with."""

    vocab_size: int
    chat_template: Any = UNSET


class TokenizerQuery(Struct, frozen=True):
    """Whose tokenizer."""

    model: str | None = None
    """The one that is served first, unless it is given."""


class CachesEmptied(Struct, frozen=True):
    """The prefix caches hold nothing."""

    blocks: int
    """KV blocks that could be found until then."""


class DocumentTold(Struct, frozen=True):
    """A document of OpenAPI 3.1."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, dict[str, Any]]
    components: dict[str, Any]
