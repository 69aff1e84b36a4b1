"""Mistral: Llama's decoder, whose layers may all look back no further than a window.

Jiang et al. 2023, "Mistral 7B", arXiv 2310.06825.
"""

from __future__ import annotations

from engine.models.config import ModelConfig
from engine.models.traits import ExpertNames, Traits


def mistral(config: ModelConfig) -> Traits:
    """`MistralForCausalLM`."""
    return Traits()


def mixtral(config: ModelConfig) -> Traits:
    """`MixtralForCausalLM`: experts in place of every feed-forward block. Jiang et al. 2024, arXiv 2401.04088."""
    return Traits(experts=ExpertNames("block_sparse_moe", "w1", "w3", "w2"))
