"""Which architectures we serve, and where their classes are. Without torch, so that a name can be judged at once."""

from __future__ import annotations

from typing import Final

FAMILIES: Final = {
    "LlamaForCausalLM": ("engine.models.llama", "Llama"),
    "Qwen3ForCausalLM": ("engine.models.qwen3", "Qwen3"),
}
"""The name that a `config.json` uses, to the module and the class."""
