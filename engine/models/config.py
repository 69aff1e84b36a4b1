"""A checkpoint's config.json as a frozen value, with everything unsupported refused by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from engine.errors import CheckpointError
from engine.layers.rotary import Llama3Scaling
from engine.platforms import DTYPES

_DEFAULT_THETA: Final = 10_000.0
"""What `transformers` assumes where an old checkpoint does not say."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The architecture of a decoder and the shapes of its weights."""

    architecture: str
    vocabulary: int
    hidden: int
    inner: int
    """Width of the feed-forward block."""
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rms_eps: float
    rope_theta: float
    rope_scaling: Llama3Scaling | None
    context_length: int
    """Positions the model was trained for."""
    tied: bool
    """The head is the embedding."""
    attention_bias: bool
    mlp_bias: bool
    dtype: torch.dtype
    """The number format of the checkpoint."""
    stop_tokens: tuple[int, ...]
    """Ids that end a generation, from config.json and generation_config.json."""

    @property
    def parameters(self) -> int:
        """How many weights the model has, biases and norms aside."""
        attention = self.hidden * self.head_dim * (self.heads + self.kv_heads) * 2
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * (attention + 3 * self.hidden * self.inner)


def read_model_config(folder: Path) -> ModelConfig:
    """Read config.json, and generation_config.json where there is one.

    Raises:
        CheckpointError: config.json is missing, is not JSON, lacks a key, or asks for what the decoder cannot do.
    """
    path = folder / "config.json"
    raw = _read_json(path)
    if raw is None:
        raise CheckpointError(path, "missing: this folder is not a model checkpoint")
    generation = _read_json(folder / "generation_config.json") or {}
    try:
        config = _parse(raw, generation)
        _refuse_what_we_lack(path, raw)
    except KeyError as error:
        raise CheckpointError(path, f"lacks the key {error.args[0]!r}") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise CheckpointError(path, f"has a value of the wrong kind: {error}") from error
    _check_shapes(path, config)
    return config


def _parse(raw: dict[str, Any], generation: dict[str, Any]) -> ModelConfig:
    """Name the values that `transformers` 4 and 5 spell differently."""
    heads = int(raw["num_attention_heads"])
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    ends = (*_ids(generation.get("eos_token_id")), *_ids(raw.get("eos_token_id")))
    return ModelConfig(
        architecture=str(raw["architectures"][0]),
        vocabulary=int(raw["vocab_size"]),
        hidden=int(raw["hidden_size"]),
        inner=int(raw["intermediate_size"]),
        layers=int(raw["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(raw.get("num_key_value_heads") or heads),
        head_dim=int(raw.get("head_dim") or raw["hidden_size"] // heads),
        rms_eps=float(raw["rms_norm_eps"]),
        rope_theta=float(rope.get("rope_theta") or raw.get("rope_theta") or _DEFAULT_THETA),
        rope_scaling=_parse_scaling(rope),
        context_length=int(raw["max_position_embeddings"]),
        tied=bool(raw.get("tie_word_embeddings", False)),
        attention_bias=bool(raw.get("attention_bias", False)),
        mlp_bias=bool(raw.get("mlp_bias", False)),
        dtype=DTYPES[raw.get("dtype") or raw.get("torch_dtype") or "float32"],
        stop_tokens=tuple(dict.fromkeys(ends)),
    )


def _parse_scaling(rope: dict[str, Any]) -> Llama3Scaling | None:
    """Read the stretching of rotations; `default` is none.

    Raises:
        ValueError: It is of a kind that we do not have.
    """
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise ValueError(f"rope_type {kind!r}; supported are default and llama3")
    return Llama3Scaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_positions=int(rope["original_max_position_embeddings"]),
    )


def _refuse_what_we_lack(path: Path, raw: dict[str, Any]) -> None:
    """Name a feature of the checkpoint that would be computed wrongly if it were passed over.

    Raises:
        CheckpointError: There is one.
    """
    activation = raw.get("hidden_act", "silu")
    if activation != "silu":
        raise CheckpointError(path, f"hidden_act {activation!r}: only 'silu' is supported")
    if "quantization_config" in raw:
        raise CheckpointError(path, "quantised weights are not supported; use the unquantised checkpoint")
    if raw.get("use_sliding_window") or "sliding_attention" in (raw.get("layer_types") or ()):
        raise CheckpointError(path, "sliding-window attention is not supported")


def _check_shapes(path: Path, config: ModelConfig) -> None:
    """Refuse sizes that do not fit one another.

    Raises:
        CheckpointError: Some do not.
    """
    for name in ("vocabulary", "hidden", "inner", "layers", "heads", "kv_heads", "head_dim", "context_length"):
        if getattr(config, name) < 1:
            raise CheckpointError(path, f"{name} is {getattr(config, name)}, which is not positive")
    if config.heads % config.kv_heads:
        raise CheckpointError(path, f"{config.heads} heads cannot share {config.kv_heads} key and value heads evenly")
    if config.head_dim % 2:
        raise CheckpointError(path, f"head_dim {config.head_dim} is odd and cannot be rotated in pairs")


def _read_json(path: Path) -> dict[str, Any] | None:
    """Read an object, or `None` if there is no such file.

    Raises:
        CheckpointError: The file is there and is not a JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise CheckpointError(path, f"cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(path, "is not a JSON object")
    return value


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    """Read what is one id, several, or none."""
    if value is None:
        return ()
    return (int(value),) if isinstance(value, int) else tuple(int(item) for item in value)
