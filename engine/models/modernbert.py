"""ModernBERT: an encoder whose tokens turn, and see the whole text in some layers and what is near them in the others.

Warner et al. 2024, arXiv 2412.13663. It has no norm ahead of the first attention, and does not tell a pair's texts
apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from engine.errors import CheckpointError
from engine.kernels.ops import Ops
from engine.layers.linear import TensorSource, load_linear
from engine.layers.norm import LayerNorm
from engine.layers.rotary import Rope, Rotary
from engine.models.dialects import Dialect
from engine.models.rope_parameters import parse_rope
from engine.models.sentence import POOLINGS, Pooling
from engine.platforms import DTYPES

_FULL: Final = "full_attention"
_NEAR: Final = "sliding_attention"
_DIALECT: Final = Dialect()

Raw = Mapping[str, Any]
"""A config.json."""


@dataclass(frozen=True, slots=True)
class ModernConfig:
    """The shapes of an encoder."""

    vocabulary: int
    hidden: int
    inner: int
    heads: int
    eps: float
    reaches: tuple[int | None, ...]
    """How far each layer sees to either side; `None` is everything."""
    ropes: tuple[Rope, ...]
    """Of each layer."""
    context_length: int
    """Tokens of a text at most."""
    attention_bias: bool
    mlp_bias: bool
    norm_bias: bool
    head_bias: bool
    head_pooling: Pooling
    """What a head of labels is given."""
    dtype: torch.dtype

    @property
    def parameters(self) -> int:
        """How many weights the model has, biases and norms aside."""
        return self.hidden * (self.vocabulary + len(self.reaches) * (4 * self.hidden + 3 * self.inner))


def parse_modern(path: Path, raw: Raw) -> ModernConfig:
    """Read the config.json at `path`.

    Raises:
        CheckpointError: It asks for what the encoder cannot do.
        KeyError: A key is missing.
        ValueError: A value is of the wrong kind.
    """
    for name in ("hidden_activation", "classifier_activation"):
        activation = raw.get(name) or "gelu"
        if activation != "gelu":
            raise CheckpointError(path, f"{name} {activation!r}: of an encoder only 'gelu' is supported")
    if "quantization_config" in raw:
        raise CheckpointError(path, "quantised weights are not supported; use the unquantised checkpoint")
    pooling = raw.get("classifier_pooling") or "cls"
    if pooling not in POOLINGS:
        raise CheckpointError(path, f"classifier_pooling {pooling!r} is none of {', '.join(POOLINGS)}")
    hidden, heads = int(raw["hidden_size"]), int(raw["num_attention_heads"])
    if hidden % heads or hidden // heads % 2:
        raise CheckpointError(path, f"a width of {hidden} cannot be divided among {heads} heads, in pairs that turn")
    kinds = _kinds(raw)
    near = int(raw.get("local_attention", 128))
    if near < 0:
        raise CheckpointError(path, f"local_attention is {near}, which is negative")
    return ModernConfig(
        vocabulary=int(raw["vocab_size"]),
        hidden=hidden,
        inner=int(raw["intermediate_size"]),
        heads=heads,
        eps=float(raw.get("norm_eps", 1e-5)),
        reaches=tuple(near // 2 if kind == _NEAR else None for kind in kinds),
        ropes=tuple(parse_rope(raw, _rope(raw, kind), hidden // heads, _DIALECT) for kind in kinds),
        context_length=int(raw["max_position_embeddings"]),
        attention_bias=bool(raw.get("attention_bias", False)),
        mlp_bias=bool(raw.get("mlp_bias", False)),
        norm_bias=bool(raw.get("norm_bias", False)),
        head_bias=bool(raw.get("classifier_bias", False)),
        head_pooling=pooling,
        dtype=DTYPES[raw.get("dtype") or raw.get("torch_dtype") or "float32"],
    )


def _kinds(raw: Raw) -> list[str]:
    """Return of each layer whether it sees everything: as it is said, or every third one.

    Raises:
        ValueError: A layer is of a kind that we do not have, or there are not as many as layers.
    """
    layers, period = int(raw["num_hidden_layers"]), int(raw.get("global_attn_every_n_layers") or 3)
    kinds = list(raw.get("layer_types") or (_NEAR if i % period else _FULL for i in range(layers)))
    if len(kinds) != layers:
        raise ValueError(f"layer_types has {len(kinds)} entries for {layers} layers")
    for kind in kinds:
        if kind not in {_FULL, _NEAR}:
            raise ValueError(f"layer_types has {kind!r}; supported are {_FULL} and {_NEAR}")
    return kinds


def _rope(raw: Raw, kind: str) -> dict[str, Any]:
    """Return the rotation of a kind of layers: by kind as `transformers` 5 writes it, or what came before it."""
    theta = raw.get("global_rope_theta", 160_000.0)
    if kind == _NEAR:
        local = raw.get("local_rope_theta", 10_000.0)
        theta = theta if local is None else local
    own = (raw.get("rope_parameters") or {}).get(kind) or raw.get("rope_scaling") or {}
    return {"rope_theta": theta} | {name: value for name, value in own.items() if value is not None}


@dataclass(frozen=True, slots=True)
class _Sight:
    """What the layers of one kind do with positions."""

    cos: Tensor
    sin: Tensor
    attend: Callable[[Tensor], Tensor]


class _Layer:
    """Attention and feed-forward, each of what came normalised, and added to it."""

    def __init__(self, config: ModernConfig, ops: Ops, source: TensorSource, i: int) -> None:
        hidden, inner, name = config.hidden, config.inner, f"layers.{i}"
        self._ops = ops
        self._heads = config.heads
        self._before = _norm(config, ops, source, f"{name}.attn_norm") if i else None
        self._qkv = load_linear(ops, source, f"{name}.attn.Wqkv", (3 * hidden, hidden), config.attention_bias)
        self._out = load_linear(ops, source, f"{name}.attn.Wo", (hidden, hidden), config.attention_bias)
        self._between = _norm(config, ops, source, f"{name}.mlp_norm")
        self._widen = load_linear(ops, source, f"{name}.mlp.Wi", (2 * inner, hidden), config.mlp_bias)
        self._narrow = load_linear(ops, source, f"{name}.mlp.Wo", (hidden, inner), config.mlp_bias)

    def __call__(self, x: Tensor, sight: _Sight) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        tokens, hidden = x.shape
        normal = x if self._before is None else self._before(x)
        qkv = self._qkv(normal).view(tokens, 3 * self._heads, -1)
        turning, value = qkv.split_with_sizes((2 * self._heads, self._heads), dim=1)
        turned = torch.cat((self._ops.rotary(turning, sight.cos, sight.sin), value), dim=1)
        attended = sight.attend(turned.view(tokens, 3, self._heads, -1))
        x = x + self._out(attended.reshape(tokens, hidden))
        gated, by = self._widen(self._between(x)).chunk(2, dim=-1)
        return x + self._narrow(self._ops.gelu(gated) * by)


class ModernEncoder:
    """Texts to hidden states."""

    def __init__(self, config: ModernConfig, ops: Ops, source: TensorSource) -> None:
        self.config = config
        self._ops = ops
        self._words = source.take("embeddings.tok_embeddings.weight", config.vocabulary, config.hidden)
        self._norm = _norm(config, ops, source, "embeddings.norm")
        self._layers = tuple(_Layer(config, ops, source, i) for i in range(len(config.reaches)))
        self._last = _norm(config, ops, source, "final_norm")
        self._kinds = tuple(zip(config.ropes, config.reaches, strict=True))
        self._rotaries = {
            rope: Rotary(rope, config.context_length, self.device) for rope in dict.fromkeys(config.ropes)
        }

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._words.device

    def forward(self, tokens: Tensor, positions: Tensor, segments: Tensor, counts: Sequence[int]) -> Tensor:
        """Compute texts of `counts` tokens that follow one another, int64 [tokens] each; segments mean nothing here.

        Returns:
            Hidden states, [tokens, hidden].
        """
        x = self._norm(self._ops.embedding(tokens, self._words))
        scale = (self.config.hidden // self.config.heads) ** -0.5
        sights = {
            (rope, reach): _Sight(
                *self._rotaries[rope].angles(positions, x.dtype), self._ops.attention_both_ways(counts, scale, reach)
            )
            for rope, reach in dict.fromkeys(self._kinds)
        }
        for layer, kind in zip(self._layers, self._kinds, strict=True):
            x = layer(x, sights[kind])
        return self._last(x)


def modern_head(config: ModernConfig, ops: Ops, source: TensorSource, labels: int) -> Callable[[Tensor], Tensor]:
    """Load the two products over a pooled state, with GELU and a norm between them."""
    first = load_linear(ops, source, "head.dense", (config.hidden, config.hidden), config.head_bias)
    norm = _norm(config, ops, source, "head.norm")
    last = load_linear(ops, source, "classifier", (labels, config.hidden), True)
    return lambda pooled: last(norm(ops.gelu(first(pooled)))).float()


def _norm(config: ModernConfig, ops: Ops, source: TensorSource, name: str) -> LayerNorm:
    return LayerNorm(ops, source, name, config.hidden, config.eps, bias=config.norm_bias)
