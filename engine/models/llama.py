"""Llama 2 and 3: the plain decoder.

Touvron et al. 2023, arXiv 2307.09288; Llama team 2024, "The Llama 3 Herd of Models", arXiv 2407.21783.
"""

from __future__ import annotations

from engine.kernels.ops import Ops
from engine.layers.linear import TensorSource
from engine.models.config import ModelConfig
from engine.models.decoder import Decoder, Traits


class Llama(Decoder):
    """`LlamaForCausalLM`."""

    def __init__(self, config: ModelConfig, ops: Ops, source: TensorSource) -> None:
        traits = Traits(attention_bias=config.attention_bias, mlp_bias=config.mlp_bias)
        super().__init__(config, ops, source, traits)
