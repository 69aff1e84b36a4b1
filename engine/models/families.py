"""Which architectures we serve, and where their traits are. Without torch, so that a name can be judged at once."""

from __future__ import annotations

from typing import Final

FAMILIES: Final = {
    "Gemma2ForCausalLM": ("engine.models.gemma", "gemma2"),
    "Gemma3ForCausalLM": ("engine.models.gemma", "gemma3"),
    "LlamaForCausalLM": ("engine.models.llama", "llama"),
    "MistralForCausalLM": ("engine.models.mistral", "mistral"),
    "MixtralForCausalLM": ("engine.models.mistral", "mixtral"),
    "Olmo2ForCausalLM": ("engine.models.olmo2", "olmo2"),
    "Phi3ForCausalLM": ("engine.models.phi3", "phi3"),
    "Qwen2ForCausalLM": ("engine.models.qwen", "qwen2"),
    "Qwen3ForCausalLM": ("engine.models.qwen", "qwen3"),
    "Qwen3MoeForCausalLM": ("engine.models.qwen", "qwen3_moe"),
}
"""The name that a `config.json` uses, to the module and the function that gives the decoder's traits."""
