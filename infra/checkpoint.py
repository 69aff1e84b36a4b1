"""Finds the checkpoint a setting names, and settles what its configuration decides. Without torch."""

from __future__ import annotations

import importlib
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec

from infra.errors import CheckpointNotFound
from infra.settings import EngineSettings

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 4}
_LONGEST = 32_768
"""Context taken when the model allows more and nothing is asked for, tokens."""


Tell = Callable[[str], None]
"""Told what is being done, now and then, from any thread."""


def resolve_engine(settings: EngineSettings, tell: Tell) -> EngineSettings:
    """Return the settings with a local model folder, a context length and a number of KV blocks.

    A hub id is downloaded, or what is missing of it; `tell` hears how far that is.

    Raises:
        CheckpointNotFound: no such folder, no such hub id, or no `config.json`.
    """
    folder = _folder(settings.model, tell)
    config = _config(folder, settings.model)
    own = config.max_position_embeddings
    length = settings.context_length or min(own, _LONGEST)
    if length > own:
        problem = f"a context of {length} tokens is more than the model's {own}"
        raise CheckpointNotFound(settings.model, problem, "give a smaller --context-length, or none")
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


def _folder(model: str, tell: Tell) -> Path:
    path = Path(model)
    if path.is_dir():
        return path.absolute()
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise CheckpointNotFound(model, "there is no such folder")
    return _downloaded(model, tell)


def _downloaded(model: str, tell: Tell) -> Path:
    hub = importlib.import_module("huggingface_hub")  # on demand: only those who name a hub id wait for it
    tell(f"asking the hub for {model}")
    over = threading.Event()
    try:
        found = hub.snapshot_download(
            model, allow_patterns=["*.json", "*.jinja", "*.safetensors"], tqdm_class=_bar(model, tell, over)
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointNotFound(model, f"no such folder, and the hub says: {reason}") from error
    finally:
        over.set()
    return Path(found)


def _bar(model: str, tell: Tell, over: threading.Event) -> type[Any]:
    """Make the class that the hub counts bytes with: it draws nothing and tells, until the download is over."""
    base = importlib.import_module("tqdm").tqdm

    def begin(bar: Any, *args: Any, name: str | None = None, **more: Any) -> None:
        base.__init__(bar, *args, **{**more, "file": io.StringIO(), "disable": False})

    def display(bar: Any, *_: Any, **__: Any) -> None:
        if bar.unit == "B" and bar.total and not over.is_set():
            total = max(1, round(bar.total / 1e6))
            tell(f"downloading {model}: {min(round(bar.n / 1e6), total)} of {total} MB")

    return type("Bar", (base,), {"__init__": begin, "display": display})


def _config(folder: Path, model: str) -> _Config:
    try:
        return msgspec.json.decode((folder / "config.json").read_bytes(), type=_Config)
    except FileNotFoundError as error:
        raise CheckpointNotFound(model, "there is no config.json in it") from error
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointNotFound(model, f"its config.json cannot be used: {error}") from error
