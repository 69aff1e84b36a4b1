"""Mistral: Llama's decoder, whose layers may all look back no further than a window.

Jiang et al. 2023, "Mistral 7B", arXiv 2310.06825.
"""

from __future__ import annotations

from engine.models.config import ModelConfig
from engine.models.traits import Traits


def mistral(config: ModelConfig) -> Traits:
    """`MistralForCausalLM`."""
    return Traits()
