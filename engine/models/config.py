"""A checkpoint's config.json as a frozen value, with everything unsupported refused by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from engine.core.groups import Groups, group
from engine.errors import CheckpointError
from engine.kernels.products import Activation
from engine.layers.rotary import Rope
from engine.models.dialects import Dialect, Raw, find_dialect, reach, ropes, windows
from engine.models.rope_parameters import parse_rope
from engine.platforms import DTYPES

_ACTIVATIONS: Final[dict[str, Activation]] = {
    "silu": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


@dataclass(frozen=True, slots=True)
class ExpertsConfig:
    """Feed-forward blocks of experts."""

    count: int
    chosen: int
    """That a token asks."""
    inner: int
    """Width of each."""
    renormalised: bool
    """The shares of a token's experts add up to one."""
    layers: tuple[bool, ...]
    """Which layers have them."""


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
    ropes: tuple[Rope, ...]
    """How each layer turns its queries and keys."""
    windows: tuple[int | None, ...]
    """How many tokens each layer sees, itself included; `None` is all of them."""
    scale: float
    """What scores of attention are multiplied by."""
    score_cap: float | None
    """Scores of attention stay between minus and plus this."""
    logit_cap: float | None
    """Logits do."""
    activation: Activation
    context_length: int
    """Positions the model can be served with."""
    tied: bool
    """The head is the embedding."""
    attention_bias: bool
    mlp_bias: bool
    dtype: torch.dtype
    """The number format of the checkpoint."""
    stop_tokens: tuple[int, ...]
    """Ids that end a generation, from config.json and generation_config.json."""
    experts: ExpertsConfig | None = None
    """None where every layer has one feed-forward block."""

    @property
    def groups(self) -> Groups:
        """Which layers share KV blocks."""
        return group(self.windows)

    @property
    def parameters(self) -> int:
        """How many weights the model has, biases and norms aside."""
        attention = self.hidden * self.head_dim * (self.heads + self.kv_heads) * 2
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        blocks = sum(self._feed_forward(layer) for layer in range(self.layers))
        return embeddings + self.layers * attention + blocks

    def _feed_forward(self, layer: int) -> int:
        if self.experts is None or not self.experts.layers[layer]:
            return 3 * self.hidden * self.inner
        return self.experts.count * (self.hidden + 3 * self.hidden * self.experts.inner)


def read_model_config(folder: Path) -> ModelConfig:
    """Read config.json, and generation_config.json where there is one.

    Raises:
        CheckpointError: config.json is missing, is not JSON, lacks a key, or asks for what the decoder cannot do.
        UnsupportedModel: The architecture is of no family of ours.
    """
    path = folder / "config.json"
    raw = read_json(path)
    if raw is None:
        raise CheckpointError(path, "missing: this folder is not a model checkpoint")
    generation = read_json(folder / "generation_config.json") or {}
    try:
        dialect = find_dialect(str(raw["architectures"][0]))
        raw = {**dialect.silent, **raw}
        config = _parse(raw, generation, dialect)
        _refuse_what_we_lack(path, raw)
    except KeyError as error:
        raise CheckpointError(path, f"lacks the key {error.args[0]!r}") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise CheckpointError(path, f"has a value of the wrong kind: {error}") from error
    _check_shapes(path, config)
    return config


def _parse(raw: Raw, generation: Raw, dialect: Dialect) -> ModelConfig:
    """Name the values that `transformers` 4 and 5 spell differently."""
    heads = int(raw["num_attention_heads"])
    head_dim = int(raw.get("head_dim") or raw["hidden_size"] // heads)
    turns = ropes(raw, dialect)
    ends = (*_ids(generation.get("eos_token_id")), *_ids(raw.get("eos_token_id")))
    return ModelConfig(
        architecture=str(raw["architectures"][0]),
        vocabulary=int(raw["vocab_size"]),
        hidden=int(raw["hidden_size"]),
        inner=int(raw["intermediate_size"]),
        layers=int(raw["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(raw.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        rms_eps=float(raw["rms_norm_eps"]),
        ropes=tuple(parse_rope(raw, rope, head_dim, dialect) for rope in turns),
        windows=windows(raw, dialect),
        scale=float(raw.get("query_pre_attn_scalar") or head_dim) ** -0.5,
        score_cap=_number(raw.get("attn_logit_softcapping")),
        logit_cap=_number(raw.get("final_logit_softcapping")),
        activation=_activation(raw),
        context_length=min(reach(raw, rope) for rope in turns),
        tied=bool(raw.get("tie_word_embeddings", False)),
        attention_bias=bool(raw.get("attention_bias", False)),
        mlp_bias=bool(raw.get("mlp_bias", False)),
        dtype=DTYPES[raw.get("dtype") or raw.get("torch_dtype") or "float32"],
        stop_tokens=tuple(dict.fromkeys(ends)),
        experts=_experts(raw),
    )


def _experts(raw: Raw) -> ExpertsConfig | None:
    """Read what a mixture of experts is made of, where there is one."""
    count = raw.get("num_local_experts") or raw.get("num_experts")
    if not count:
        return None
    period, dense = int(raw.get("decoder_sparse_step") or 1), set(raw.get("mlp_only_layers") or ())
    return ExpertsConfig(
        count=int(count),
        chosen=int(raw["num_experts_per_tok"]),
        inner=int(raw.get("moe_intermediate_size") or raw["intermediate_size"]),
        renormalised=bool(raw.get("norm_topk_prob", False)),
        layers=tuple(i not in dense and (i + 1) % period == 0 for i in range(int(raw["num_hidden_layers"]))),
    )


def _activation(raw: Raw) -> Activation:
    """Read which function gates the feed-forward block.

    Raises:
        ValueError: It is none that we have.
    """
    name = raw.get("hidden_activation") or raw.get("hidden_act") or "silu"
    if name not in _ACTIVATIONS:
        raise ValueError(f"the activation {name!r}; supported are {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _refuse_what_we_lack(path: Path, raw: Raw) -> None:
    """Name a feature of the checkpoint that would be computed wrongly if it were passed over.

    Raises:
        CheckpointError: There is one.
    """
    if raw.get("use_bidirectional_attention"):
        raise CheckpointError(path, "use_bidirectional_attention is not supported")
    if raw.get("is_causal") is False:
        raise CheckpointError(path, "is_causal: false is not supported")


def _check_shapes(path: Path, config: ModelConfig) -> None:
    """Refuse sizes that do not fit one another.

    Raises:
        CheckpointError: Some do not.
    """
    for name in ("vocabulary", "hidden", "inner", "layers", "heads", "kv_heads", "head_dim", "context_length"):
        if getattr(config, name) < 1:
            raise CheckpointError(path, f"{name} is {getattr(config, name)}, which is not positive")
    experts = config.experts
    if experts is not None and not 0 < experts.chosen <= experts.count:
        raise CheckpointError(path, f"a token cannot ask {experts.chosen} of {experts.count} experts")
    if config.heads % config.kv_heads:
        raise CheckpointError(path, f"{config.heads} heads cannot share {config.kv_heads} key and value heads evenly")
    for rope in config.ropes:
        if rope.width % 2 or not 0 < rope.width <= config.head_dim:
            raise CheckpointError(path, f"head_dim {config.head_dim}: {rope.width} entries cannot be turned in pairs")


def read_json(path: Path) -> dict[str, Any] | None:
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


def _number(value: float | None) -> float | None:
    """Read what may be absent."""
    return None if value is None else float(value)
