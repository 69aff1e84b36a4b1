"""Where the config.json of a family says something in its own way, or leaves unsaid what `transformers` assumes.

Without torch, so that whoever plans memory can ask too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from engine.errors import UnsupportedModel
from engine.models.families import FAMILIES

Raw = Mapping[str, Any]
"""A config.json."""

_ENDINGS: Final = ("ForCausalLM", "ForSequenceClassification", "TextModel", "Model")
_SLIDING: Final = "sliding_attention"
_FULL: Final = "full_attention"
_GEMMA: Final = {
    "tie_word_embeddings": True,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}


def full(raw: Raw) -> Iterator[str]:
    """No layer looks back less far than to the first token."""
    yield from (_FULL for _ in range(_layers(raw)))


def sliding(raw: Raw) -> Iterator[str]:
    """Every layer has the window, if config.json gives one."""
    yield from (_FULL if raw.get("sliding_window") is None else _SLIDING for _ in range(_layers(raw)))


def upper(raw: Raw) -> Iterator[str]:
    """Layers from `max_window_layers` on have the window, if `use_sliding_window` says so."""
    if not raw.get("use_sliding_window") or raw.get("sliding_window") is None:
        yield from full(raw)
        return
    first = int(raw["max_window_layers"])
    yield from raw.get("layer_types") or (_SLIDING if i >= first else _FULL for i in range(_layers(raw)))


def alternating(raw: Raw) -> Iterator[str]:
    """All but every n-th layer have the window."""
    period = int(raw["sliding_window_pattern"])
    yield from raw.get("layer_types") or (_SLIDING if (i + 1) % period else _FULL for i in range(_layers(raw)))


def one_rope(raw: Raw, kind: str) -> dict[str, Any]:
    """All layers turn alike: `rope_parameters` as `transformers` 5 writes it, or what came before it."""
    rope = {"rope_theta": raw.get("rope_theta"), "partial_rotary_factor": raw.get("partial_rotary_factor")}
    own = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    return rope | {name: value for name, value in own.items() if value is not None}


def two_ropes(raw: Raw, kind: str) -> dict[str, Any]:
    """Layers with a window turn faster than those without."""
    nested = raw.get("rope_parameters")
    if nested:
        return dict(nested[kind])
    if kind == _SLIDING:
        return {"rope_theta": raw.get("rope_local_base_freq", 10_000.0)}
    return {"rope_theta": raw.get("rope_theta", 1_000_000.0)} | (raw.get("rope_scaling") or {})


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to read what differs."""

    kinds: Callable[[Raw], Iterator[str]] = full
    """Of each layer: whether it has the window."""
    rope: Callable[[Raw, str], dict[str, Any]] = one_rope
    """The rotation of a layer of a kind."""
    silent: Raw = field(default_factory=dict)
    """What `transformers` takes where config.json says nothing; null is something."""
    partial: bool = False
    """Only a part of each head may turn."""


DIALECTS: Final = {
    "Llama": Dialect(),
    "Mistral": Dialect(sliding, silent={"sliding_window": 4096}),
    "Qwen2": Dialect(upper, silent={"sliding_window": 4096, "max_window_layers": 28}),
    "Qwen3": Dialect(upper, silent={"sliding_window": 4096, "max_window_layers": 28}),
    "Qwen3Moe": Dialect(upper, silent={"sliding_window": 4096, "max_window_layers": 28}),
    "Mixtral": Dialect(sliding, silent={"num_local_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": True}),
    "Phi3": Dialect(sliding, partial=True),
    "Olmo2": Dialect(),
    "Gemma2": Dialect(
        alternating,
        silent=_GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window_pattern": 2},
    ),
    "Gemma3": Dialect(alternating, two_ropes, silent=_GEMMA | {"sliding_window_pattern": 6}),
}
"""By what the names of a family's architectures begin with."""


def find_dialect(architecture: str) -> Dialect:
    """Return the dialect of the family that an architecture belongs to.

    Raises:
        UnsupportedModel: We have none.
    """
    for ending in _ENDINGS:
        family = architecture.removesuffix(ending)
        if family != architecture and family in DIALECTS:
            return DIALECTS[family]
    raise UnsupportedModel(architecture, FAMILIES)


def windows(raw: Raw, dialect: Dialect) -> tuple[int | None, ...]:
    """Return how many tokens each layer sees, itself included; `None` is all.

    Raises:
        ValueError: A layer is of a kind that we do not have, or the window has no size.
    """
    found: list[int | None] = []
    for kind in dialect.kinds(raw):
        if kind not in {_SLIDING, _FULL}:
            raise ValueError(f"layer_types has {kind!r}; supported are {_FULL} and {_SLIDING}")
        size = int(raw["sliding_window"]) if kind == _SLIDING else None
        if size is not None and size < 1:
            raise ValueError(f"sliding_window is {size}, which is not positive")
        found.append(size)
    if len(found) != _layers(raw):
        raise ValueError(f"layer_types has {len(found)} entries for {_layers(raw)} layers")
    return tuple(found)


def ropes(raw: Raw, dialect: Dialect) -> tuple[dict[str, Any], ...]:
    """Return the parameters of each layer's rotation."""
    return tuple(dialect.rope(raw, kind) for kind in dialect.kinds(raw))


def reach(raw: Raw, rope: Raw) -> int:
    """Return the positions a model can serve: those it was trained for, or what its rotation is stretched to."""
    trained = int(raw["max_position_embeddings"])
    kind = rope.get("rope_type") or rope.get("type")
    if kind == "dynamic":
        return int(trained * float(rope["factor"]))
    if kind == "yarn" and rope.get("factor"):
        return max(trained, int(int(rope.get("original_max_position_embeddings") or trained) * float(rope["factor"])))
    return trained


def _layers(raw: Raw) -> int:
    return int(raw["num_hidden_layers"])
