"""Qwen 2, 2.5 and 3, dense or of experts: Llama's decoder with biases for queries, keys and values, or with head norms.

Qwen team 2024, "Qwen2 Technical Report", arXiv 2407.10671; 2025, "Qwen3 Technical Report", arXiv 2505.09388.
"""

from __future__ import annotations

from engine.models.config import ModelConfig
from engine.models.traits import Traits


def qwen2(config: ModelConfig) -> Traits:
    """`Qwen2ForCausalLM`, which is Qwen 2.5 too."""
    return Traits(qkv_bias=True)


def qwen3(config: ModelConfig) -> Traits:
    """`Qwen3ForCausalLM`."""
    return Traits(head_norm="head", qkv_bias=config.attention_bias, out_bias=config.attention_bias)


def qwen3_moe(config: ModelConfig) -> Traits:
    """`Qwen3MoeForCausalLM`: experts in place of some or all feed-forward blocks."""
    return qwen3(config)
