"""Phi-3 and Phi-4: Llama's decoder with joined projections; LongRoPE, and heads of which only a part may turn.

Abdin et al. 2024, "Phi-3 Technical Report", arXiv 2404.14219.
"""

from __future__ import annotations

from engine.models.config import ModelConfig
from engine.models.traits import JOINED, Traits


def phi3(config: ModelConfig) -> Traits:
    """`Phi3ForCausalLM`."""
    return Traits(projections=JOINED)
