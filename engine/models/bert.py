"""BERT, RoBERTa and XLM-R: encoders, in which every token sees the whole text.

Devlin et al. 2018, arXiv 1810.04805; Liu et al. 2019, arXiv 1907.11692; Conneau et al. 2019, arXiv 1911.02116. The
last two count positions from behind the id of padding and do not tell a pair's texts apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import CheckpointError
from engine.kernels.ops import Ops
from engine.layers.linear import TensorSource, load_linear, load_stacked
from engine.layers.norm import LayerNorm
from engine.models.sentence import Pooling
from engine.platforms import DTYPES


@dataclass(frozen=True, slots=True)
class BertConfig:
    """The shapes of an encoder."""

    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    eps: float
    rows: int
    """Of the table of positions."""
    first: int
    """The row of the first token."""
    segments: int
    """Kinds of them in the table."""
    paired: bool
    """The texts of a pair are told apart by their segments."""
    dtype: torch.dtype

    @property
    def head_pooling(self) -> Pooling:
        """What a head of labels is given."""
        return "cls"

    @property
    def context_length(self) -> int:
        """Tokens of a text at most."""
        return self.rows - self.first

    @property
    def parameters(self) -> int:
        """How many weights the model has, biases and norms aside."""
        rows = self.vocabulary + self.rows + self.segments
        return rows * self.hidden + self.layers * self.hidden * (4 * self.hidden + 2 * self.inner)


def parse_bert(path: Path, raw: Mapping[str, Any]) -> BertConfig:
    """Read the config.json at `path`.

    Raises:
        CheckpointError: It asks for what the encoder cannot do.
        KeyError: A key is missing.
        ValueError: A value is of the wrong kind.
    """
    activation = raw.get("hidden_act", "gelu")
    if activation != "gelu":
        raise CheckpointError(path, f"hidden_act {activation!r}: of an encoder only 'gelu' is supported")
    positions = raw.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        raise CheckpointError(path, f"position_embedding_type {positions!r}: only 'absolute' is supported")
    if raw.get("is_decoder"):
        raise CheckpointError(path, "is_decoder is not supported")
    if "quantization_config" in raw:
        raise CheckpointError(path, "quantised weights are not supported; use the unquantised checkpoint")
    segments = int(raw.get("type_vocab_size", 2))
    counted = not str(raw["architectures"][0]).startswith("Bert")
    config = BertConfig(
        vocabulary=int(raw["vocab_size"]),
        hidden=int(raw["hidden_size"]),
        inner=int(raw["intermediate_size"]),
        layers=int(raw["num_hidden_layers"]),
        heads=int(raw["num_attention_heads"]),
        eps=float(raw.get("layer_norm_eps", 1e-12)),
        rows=int(raw["max_position_embeddings"]),
        first=int(raw.get("pad_token_id", 1)) + 1 if counted else 0,
        segments=segments,
        paired=not counted and segments > 1,
        dtype=DTYPES[raw.get("dtype") or raw.get("torch_dtype") or "float32"],
    )
    if config.hidden % config.heads:
        raise CheckpointError(path, f"a width of {config.hidden} cannot be divided among {config.heads} heads")
    return config


class _Layer:
    """Attention and feed-forward, each added to what came and normalised."""

    def __init__(self, config: BertConfig, ops: Ops, source: TensorSource, name: str) -> None:
        hidden, inner = config.hidden, config.inner
        parts = [(f"{name}.attention.self.{part}", hidden) for part in ("query", "key", "value")]
        self._ops = ops
        self._heads = config.heads
        self._qkv = load_stacked(ops, source, parts, hidden, True)
        self._out = load_linear(ops, source, f"{name}.attention.output.dense", (hidden, hidden), True)
        self._between = LayerNorm(ops, source, f"{name}.attention.output.LayerNorm", hidden, config.eps)
        self._widen = load_linear(ops, source, f"{name}.intermediate.dense", (inner, hidden), True)
        self._narrow = load_linear(ops, source, f"{name}.output.dense", (hidden, inner), True)
        self._behind = LayerNorm(ops, source, f"{name}.output.LayerNorm", hidden, config.eps)

    def __call__(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        tokens, hidden = x.shape
        head_dim = hidden // self._heads
        qkv = self._qkv(x).view(tokens, 3, self._heads, head_dim)
        attended = self._ops.attention_both_ways(counts, head_dim**-0.5)(qkv)
        x = self._between(self._out(attended.reshape(tokens, hidden)) + x)
        return self._behind(self._narrow(self._ops.gelu(self._widen(x))) + x)


class BertEncoder:
    """Texts to hidden states."""

    def __init__(self, config: BertConfig, ops: Ops, source: TensorSource) -> None:
        self.config = config
        self._ops = ops
        self._words = source.take("embeddings.word_embeddings.weight", config.vocabulary, config.hidden)
        self._positions = source.take("embeddings.position_embeddings.weight", config.rows, config.hidden)
        self._segments = source.take("embeddings.token_type_embeddings.weight", config.segments, config.hidden)
        self._norm = LayerNorm(ops, source, "embeddings.LayerNorm", config.hidden, config.eps)
        self._layers = tuple(_Layer(config, ops, source, f"encoder.layer.{i}") for i in range(config.layers))

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._words.device

    def forward(self, tokens: Tensor, positions: Tensor, segments: Tensor, counts: Sequence[int]) -> Tensor:
        """Compute texts of `counts` tokens that follow one another, int64 [tokens] each.

        Returns:
            Hidden states, [tokens, hidden].
        """
        look_up = self._ops.embedding
        kinds = segments if self.config.paired else torch.zeros_like(segments)
        x = look_up(tokens, self._words) + look_up(kinds, self._segments)
        x = self._norm(x + look_up(positions + self.config.first, self._positions))
        for layer in self._layers:
            x = layer(x, counts)
        return x


def bert_head(config: BertConfig, ops: Ops, source: TensorSource, labels: int) -> Callable[[Tensor], Tensor]:
    """Load BERT's two products over the first token's state, with a tangent between them."""
    return _head(config, ops, source, ("bert.pooler.dense", "classifier"), labels)


def roberta_head(config: BertConfig, ops: Ops, source: TensorSource, labels: int) -> Callable[[Tensor], Tensor]:
    """Load the same of RoBERTa and XLM-R."""
    return _head(config, ops, source, ("classifier.dense", "classifier.out_proj"), labels)


def _head(
    config: BertConfig, ops: Ops, source: TensorSource, names: tuple[str, str], labels: int
) -> Callable[[Tensor], Tensor]:
    first = load_linear(ops, source, names[0], (config.hidden, config.hidden), True)
    last = load_linear(ops, source, names[1], (labels, config.hidden), True)
    return lambda pooled: last(first(pooled).tanh()).float()
