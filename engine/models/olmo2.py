"""OLMo 2: norms stand behind attention and feed-forward, and queries and keys are normalised over all heads.

OLMo team 2024, "2 OLMo 2 Furious", arXiv 2501.00656.
"""

from __future__ import annotations

from engine.models.config import ModelConfig
from engine.models.traits import BEHIND, Traits


def olmo2(config: ModelConfig) -> Traits:
    """`Olmo2ForCausalLM`."""
    bias = config.attention_bias
    return Traits(norms=BEHIND, head_norm="width", qkv_bias=bias, out_bias=bias)
