"""Qwen3, the dense models: Llama's decoder with a norm on every query and key head.

Qwen team 2025, "Qwen3 Technical Report", arXiv 2505.09388.
"""

from __future__ import annotations

from engine.kernels.ops import Ops
from engine.layers.linear import TensorSource
from engine.models.config import ModelConfig
from engine.models.decoder import Decoder, Traits


class Qwen3(Decoder):
    """`Qwen3ForCausalLM`."""

    def __init__(self, config: ModelConfig, ops: Ops, source: TensorSource) -> None:
        super().__init__(config, ops, source, Traits(head_norm=True, attention_bias=config.attention_bias))
