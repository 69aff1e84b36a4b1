"""Gemma 2 and 3: norms on both sides of attention and feed-forward, layers with a window between layers without.

Gemma 2 keeps scores and logits within bounds by a tangent, Gemma 3 has head norms instead and turns faster where
there is a window. Gemma team 2024, "Gemma 2", arXiv 2408.00118; 2025, "Gemma 3 Technical Report", arXiv 2503.19786.
"""

from __future__ import annotations

from engine.models.config import ModelConfig
from engine.models.traits import AROUND, Traits


def gemma2(config: ModelConfig) -> Traits:
    """`Gemma2ForCausalLM`."""
    bias = config.attention_bias
    return Traits(norms=AROUND, norm_offset=1.0, embedding_scale=config.hidden**0.5, qkv_bias=bias, out_bias=bias)


def gemma3(config: ModelConfig) -> Traits:
    """`Gemma3ForCausalLM`, the models of text alone."""
    bias = config.attention_bias
    return Traits(
        norms=AROUND,
        norm_offset=1.0,
        head_norm="head",
        embedding_scale=config.hidden**0.5,
        qkv_bias=bias,
        out_bias=bias,
    )
