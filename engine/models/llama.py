"""Llama 2 and 3: the plain decoder.

Touvron et al. 2023, arXiv 2307.09288; Llama team 2024, "The Llama 3 Herd of Models", arXiv 2407.21783.
"""

from __future__ import annotations

from engine.models.config import ModelConfig
from engine.models.traits import Traits


def llama(config: ModelConfig) -> Traits:
    """`LlamaForCausalLM`."""
    bias = config.attention_bias
    return Traits(qkv_bias=bias, out_bias=bias, mlp_bias=config.mlp_bias)
