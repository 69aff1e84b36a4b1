"""Finds the checkpoint a setting names, and settles what its configuration decides. Without torch."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import msgspec

from infra.errors import CheckpointNotFound
from infra.settings import EngineSettings

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 4}
_LONGEST = 32_768
"""Context taken when the model allows more and nothing is asked for, tokens."""


def resolve_engine(settings: EngineSettings) -> EngineSettings:
    """Return the settings with a local model folder, a context length and a number of KV blocks.

    Raises:
        CheckpointNotFound: no such folder, no such hub id, or no `config.json`.
    """
    folder = _folder(settings.model)
    config = _config(folder, settings.model)
    own = config.max_position_embeddings
    length = settings.context_length or min(own, _LONGEST)
    if length > own:
        raise CheckpointNotFound(settings.model, f"context_length {length} is more than the model's {own}")
    blocks = settings.kv_blocks or settings.kv_memory_mb * (1 << 20) // _block_bytes(config, settings)
    least = -(-length // settings.block_size) + 1
    return msgspec.structs.replace(settings, model=str(folder), context_length=length, kv_blocks=max(blocks, least))


class _Config(msgspec.Struct):
    """The part of `config.json` that decides the KV cache's size."""

    num_hidden_layers: Annotated[int, msgspec.Meta(ge=1)]
    num_attention_heads: Annotated[int, msgspec.Meta(ge=1)]
    hidden_size: Annotated[int, msgspec.Meta(ge=1)]
    num_key_value_heads: Annotated[int, msgspec.Meta(ge=1)] | None = None
    head_dim: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_position_embeddings: Annotated[int, msgspec.Meta(ge=1)] = 2048


def _block_bytes(config: _Config, settings: EngineSettings) -> int:
    heads = config.num_attention_heads
    width = config.head_dim or max(1, config.hidden_size // heads)
    per_token = 2 * config.num_hidden_layers * (config.num_key_value_heads or heads) * width
    return per_token * settings.block_size * _BYTES[settings.dtype]


def _folder(model: str) -> Path:
    path = Path(model)
    if path.is_dir():
        return path.absolute()
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise CheckpointNotFound(model, "there is no such folder")
    return _downloaded(model)


def _downloaded(model: str) -> Path:
    hub = importlib.import_module("huggingface_hub")  # on demand: only those who name a hub id wait for it
    try:
        return Path(hub.snapshot_download(model, allow_patterns=["*.json", "*.jinja", "*.safetensors"]))
    except (OSError, ValueError) as error:
        raise CheckpointNotFound(model, f"no such folder, and the hub says: {error}") from error


def _config(folder: Path, model: str) -> _Config:
    try:
        return msgspec.json.decode((folder / "config.json").read_bytes(), type=_Config)
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointNotFound(model, f"its config.json cannot be used: {error}") from error
