"""Models that give no tokens: their trunk's hidden states, and the head that judges a text if there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from engine.errors import CheckpointError, UnsupportedModel
from engine.kernels.ops import load_ops
from engine.kernels.weights import Quantization, Weight
from engine.layers.linear import TensorSource, load_linear
from engine.models.config import ModelConfig, read_json, read_model_config
from engine.models.decoder import Trunk
from engine.models.encoders import ENCODERS, EncoderConfig
from engine.models.families import FAMILIES
from engine.models.registry import find_family, fitting, weighing
from engine.models.sentence import Pooling, read_activation, read_pooling
from engine.models.states import BothWays, Causal, States
from engine.models.weights import Checkpoint
from engine.platforms import Dtype, Platform, choose_dtype
from engine.progress import UseTqdm

_HEAD: Final = "ForSequenceClassification"
_CAUSAL: Final = "ForCausalLM"
_KINDS: Final = ("Model", "ForMaskedLM", _HEAD)
"""Of encoders."""
_UNUSED: Final = ("rotary_emb.inv_freq", "position_ids", "lm_head.weight")
_NAMED_OTHERWISE: Final = {"Gemma3": ("Gemma3ForCausalLM", "Gemma3TextModel")}
"""The other names stand for models that see pictures."""

SUPPORTED: Final = tuple(
    sorted(
        [f"{family}{kind}" for family in ENCODERS for kind in _KINDS]
        + [
            architecture
            for family in (name.removesuffix(_CAUSAL) for name in FAMILIES)
            for architecture in _NAMED_OTHERWISE.get(
                family, (f"{family}{_CAUSAL}", f"{family}{_HEAD}", f"{family}Model")
            )
        ]
    )
)
"""Names of architectures, as config.json gives them."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """A model as it was loaded."""

    states: States
    pooling: Pooling
    """How the states of a text's tokens become one."""
    padding: int | None
    """A token that is not the last one for a head, though it may come last."""
    head: Callable[[Tensor], Tensor] | None
    """Maps pooled states [texts, width] to float32 logits [texts, labels]."""
    labels: tuple[str, ...]
    independent: bool
    """Each label is a question of its own, and does not compete with the others."""
    activation: Literal["sigmoid", "identity"]
    """What makes a score of the logit of a single label."""


class _Renamed:
    """Tensors whose names begin otherwise than the model calls them."""

    def __init__(self, inner: TensorSource, ours: str, theirs: str) -> None:
        self._inner = inner
        self._ours = ours
        self._theirs = theirs

    @property
    def quantization(self) -> Quantization:
        """How products are computed."""
        return self._inner.quantization

    def has(self, name: str) -> bool:
        """Whether there is the tensor."""
        return self._inner.has(f"{self._theirs}{name.removeprefix(self._ours)}")

    def take(self, name: str, *shape: int) -> Tensor:
        """Return the tensor."""
        return self._inner.take(f"{self._theirs}{name.removeprefix(self._ours)}", *shape)

    def weight(self, name: str, out: int, width: int) -> Weight:
        """Return the weight of a projection."""
        return self._inner.weight(f"{self._theirs}{name.removeprefix(self._ours)}", out, width)


@dataclass(frozen=True, slots=True)
class _Said:
    """What a checkpoint, and whoever loads it, says of how states become one."""

    folder: Path
    raw: Mapping[str, Any]
    """Its config.json."""
    pooling: Pooling | None

    @property
    def architecture(self) -> str:
        return str(self.raw["architectures"][0])

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels; `transformers` has two where config.json says nothing."""
        if not self.architecture.endswith(_HEAD):
            return ()
        named = self.raw.get("id2label")
        if named:
            return tuple(str(named[key]) for key in sorted(named, key=int))
        return tuple(f"LABEL_{i}" for i in range(int(self.raw.get("num_labels") or 2)))

    def joined(self, states: States, head: Callable[[Tensor], Tensor] | None, default: Pooling) -> Pooled:
        """Join the parts."""
        pooling = default if head is not None else self.pooling or read_pooling(self.folder) or default
        independent = self.raw.get("problem_type") == "multi_label_classification"
        padding = self.raw.get("pad_token_id")
        padding = int(padding) if head is not None and padding is not None else None
        activation = read_activation(self.folder, self.raw)
        return Pooled(states, pooling, padding, head, self.labels, independent, activation)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be loaded, and how."""

    said: _Said
    platform: Platform
    dtype: Dtype
    quantization: Quantization
    use_tqdm: UseTqdm

    def source(self, dtype: torch.dtype) -> Checkpoint:
        """Open its weights."""
        return Checkpoint(self.said.folder, dtype, self.platform.device, self.quantization)

    def weighing(self, config: ModelConfig | EncoderConfig, source: Checkpoint, dtype: torch.dtype) -> int:
        """Return the bytes that its weights take in memory."""
        return weighing(config, source.size() // dtype.itemsize, dtype, self.quantization)


def load_pooled(
    folder: Path,
    platform: Platform,
    dtype: Dtype,
    pooling: Pooling | None,
    use_tqdm: UseTqdm = False,
    quantization: Quantization = "none",
) -> Pooled:
    """Load the checkpoint in `folder` onto the platform's device; `pooling` overrides what it says itself.

    Raises:
        CheckpointError: A file is missing, damaged, or not what the architecture needs.
        UnsupportedModel: The architecture is not one of ours.
        NotEnoughMemory: The weights do not fit.
    """
    said = _read(folder, pooling)
    path = folder / "config.json"
    try:
        if said.architecture not in SUPPORTED:
            raise UnsupportedModel(said.architecture, SUPPORTED)
        load = _load_encoder if any(said.architecture.startswith(family) for family in ENCODERS) else _load_decoder
        return load(_Wanted(said, platform, dtype, quantization, use_tqdm))
    except KeyError as error:
        raise CheckpointError(path, f"lacks the key {error.args[0]!r}") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise CheckpointError(path, f"has a value of the wrong kind: {error}") from error


def pooled_trunk(folder: Path, trunk: Trunk, pooling: Pooling | None) -> Pooled:
    """Give a decoder that is loaded as a model of whole texts; `pooling` overrides what its folder says itself.

    Raises:
        CheckpointError: The folder says what cannot be.
    """
    return _read(folder, pooling).joined(Causal(trunk), None, "last")


def read_architecture(folder: Path) -> str:
    """Return the name of a checkpoint's architecture, as its config.json gives it.

    Raises:
        CheckpointError: There is none.
    """
    path = folder / "config.json"
    try:
        return _read(folder, None).architecture
    except (KeyError, TypeError, IndexError) as error:
        raise CheckpointError(path, "names no architecture (`architectures`)") from error


def _read(folder: Path, pooling: Pooling | None) -> _Said:
    path = folder / "config.json"
    raw = read_json(path)
    if raw is None:
        raise CheckpointError(path, "missing: this folder is not a model checkpoint")
    return _Said(folder, raw, pooling)


def _load_encoder(wanted: _Wanted) -> Pooled:
    said, platform, labels = wanted.said, wanted.platform, wanted.said.labels
    family = next(ENCODERS[name] for name in ENCODERS if said.architecture.startswith(name))
    config = family.parse(said.folder / "config.json", said.raw)
    chosen = choose_dtype(platform, wanted.dtype, config.dtype, config.parameters)
    source = wanted.source(chosen)
    ops = load_ops(platform.ops)
    with fitting(wanted.weighing(config, source, chosen), platform), source.loading(wanted.use_tqdm):
        bare = not source.has(f"{family.prefix}{family.words}")
        states = BothWays(family.build(config, ops, _Renamed(source, "", "" if bare else family.prefix)))
        head = family.head(config, ops, source, len(labels)) if labels else None
    source.refuse_leftovers(family.spare)
    return said.joined(states, head, config.head_pooling if labels else "mean")


def _load_decoder(wanted: _Wanted) -> Pooled:
    said, platform, labels = wanted.said, wanted.platform, wanted.said.labels
    config = read_model_config(said.folder)
    traits = find_family(_family(said.architecture))(config)
    chosen = choose_dtype(platform, wanted.dtype, config.dtype, config.parameters)
    source = wanted.source(chosen)
    ops = load_ops(platform.ops)
    with fitting(wanted.weighing(config, source, chosen), platform), source.loading(wanted.use_tqdm):
        bare = not source.has("model.embed_tokens.weight")
        trunk = Trunk(config, ops, _Renamed(source, "model.", "" if bare else "model."), traits)
        head = _floated(load_linear(ops, source, "score", (len(labels), config.hidden), False)) if labels else None
    source.refuse_leftovers(_UNUSED)
    return said.joined(Causal(trunk), head, "last")


def _family(architecture: str) -> str:
    """Return the decoder whose trunk an architecture has."""
    for ending in (_HEAD, _CAUSAL, "TextModel", "Model"):
        architecture = architecture.removesuffix(ending)
    return f"{architecture}{_CAUSAL}"


def _floated(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda pooled: product(pooled).float()
