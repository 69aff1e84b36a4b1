"""Which encoders we have: a family is how its checkpoints are read, and the model and the head that they become."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from engine.kernels.ops import Ops
from engine.layers.linear import TensorSource
from engine.models.bert import BertEncoder, bert_head, parse_bert, roberta_head
from engine.models.modernbert import ModernEncoder, modern_head, parse_modern
from engine.models.sentence import Pooling


class EncoderConfig(Protocol):
    """What every encoder's shapes tell."""

    @property
    def vocabulary(self) -> int:
        """How many tokens have a vector."""

    @property
    def hidden(self) -> int:
        """Width of a state."""

    @property
    def context_length(self) -> int:
        """Tokens of a text at most."""

    @property
    def parameters(self) -> int:
        """How many weights the model has, biases and norms aside."""

    @property
    def head_pooling(self) -> Pooling:
        """What a head of labels is given."""

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the checkpoint."""


class Encoder(Protocol):
    """Texts to hidden states."""

    @property
    def config(self) -> EncoderConfig:
        """Its shapes."""

    @property
    def device(self) -> torch.device:
        """Where the model computes."""

    def forward(self, tokens: Tensor, positions: Tensor, segments: Tensor, counts: Sequence[int]) -> Tensor:
        """Compute texts of `counts` tokens that follow one another, int64 [tokens] each.

        Returns:
            Hidden states, [tokens, hidden].
        """


@dataclass(frozen=True, slots=True)
class EncoderFamily:
    """How a family's checkpoints are read."""

    prefix: str
    """Of the tensors under a head."""
    words: str
    """A tensor that every checkpoint has."""
    spare: tuple[str, ...]
    """How the names of tensors end that we do without: what training by masked words leaves behind."""
    parse: Callable[[Path, Mapping[str, Any]], EncoderConfig]
    # each is given what the family's own `parse` returned
    build: Callable[[Any, Ops, TensorSource], Encoder]
    head: Callable[[Any, Ops, TensorSource, int], Callable[[Tensor], Tensor]]


_PRODUCTS: Final = ("decoder.weight", "decoder.bias", "bias", "dense.weight", "dense.bias")
_BERT: Final = EncoderFamily(
    prefix="bert.",
    words="embeddings.word_embeddings.weight",
    spare=(
        "position_ids",
        "pooler.dense.weight",
        "pooler.dense.bias",
        "cls.seq_relationship.weight",
        "cls.seq_relationship.bias",
        *(f"cls.predictions.{part}" for part in _PRODUCTS[:3]),
        *(f"cls.predictions.transform.{part}" for part in (*_PRODUCTS[3:], "LayerNorm.weight", "LayerNorm.bias")),
    ),
    parse=parse_bert,
    build=BertEncoder,
    head=bert_head,
)
_ROBERTA: Final = EncoderFamily(
    prefix="roberta.",
    words=_BERT.words,
    spare=(
        "position_ids",
        "pooler.dense.weight",
        "pooler.dense.bias",
        *(f"lm_head.{part}" for part in (*_PRODUCTS, "layer_norm.weight", "layer_norm.bias")),
    ),
    parse=parse_bert,
    build=BertEncoder,
    head=roberta_head,
)
_MODERN: Final = EncoderFamily(
    prefix="model.",
    words="embeddings.tok_embeddings.weight",
    spare=(
        "decoder.weight",
        "decoder.bias",
        *(f"head.{part}" for part in ("dense.weight", "dense.bias", "norm.weight", "norm.bias")),
    ),
    parse=parse_modern,
    build=ModernEncoder,
    head=modern_head,
)

ENCODERS: Final = {"Bert": _BERT, "ModernBert": _MODERN, "Roberta": _ROBERTA, "XLMRoberta": _ROBERTA}
"""By what the names of a family's architectures begin with."""
