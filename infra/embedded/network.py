"""The network: a small Qwen3 decoder, how it is trained on rows that share a prompt, and how it is saved."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, DynamicCache, Qwen3Config, Qwen3ForCausalLM, Qwen3Model

from infra.embedded.batches import Batch

_SHAPE: Final[dict[str, Any]] = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "intermediate_size": 640,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "attention_bias": False,
}


_CACHE = "cache" if "cache" in signature(Qwen3Model.forward).parameters else "past_key_values"
"""What the model calls its KV cache: another name since transformers 5.24."""


def new_network(vocabulary: int, seed: int) -> Qwen3ForCausalLM:
    """Make an untrained network; the seed fixes its weights."""
    torch.manual_seed(seed)
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    config = Qwen3Config(vocab_size=vocabulary, rope_parameters=rope, initializer_range=0.02, **_SHAPE)
    network = Qwen3ForCausalLM(config)
    network.set_attn_implementation("grouped")
    return network


def loss(network: Qwen3ForCausalLM, batch: Batch) -> tuple[Tensor, int]:
    """Return the summed loss over a batch's judged tokens, and how many there are."""
    rows = torch.from_numpy(batch.rows)
    judged = torch.from_numpy(batch.judged)[:, 1:]
    count, length = rows.shape
    shared = len(batch.prompt)
    cache = DynamicCache(config=network.config)
    if shared:
        network.model(input_ids=torch.from_numpy(batch.prompt)[None], use_cache=True, **{_CACHE: cache})
        cache.batch_repeat_interleave(count)
    positions = torch.arange(shared, shared + length)[None]
    out = network.model(input_ids=rows, use_cache=True, position_ids=positions, **{_CACHE: cache})
    hidden = out.last_hidden_state[:, :-1][judged]
    targets = rows[:, 1:][judged]
    return functional.cross_entropy(network.lm_head(hidden).float(), targets, reduction="sum"), len(targets)


def save_weights(network: Qwen3ForCausalLM, weights: dict[str, Tensor], folder: Path, end: int, pad: int) -> None:
    """Write config.json, generation_config.json and the weights in bf16."""
    stored = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": network.config.vocab_size,
        **_SHAPE,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "torch_dtype": "bfloat16",
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
        "use_cache": True,
    }
    generation = {"do_sample": False, "eos_token_id": end, "pad_token_id": pad}
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _grouped(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Plain causal attention; on a CPU in bf16 with a long shared prompt it trains faster than the fused one."""
    count, heads, length, width = query.shape  # [B, H, L, D]
    groups, keys = key.shape[1], key.shape[2]
    query = (query * scaling).to(torch.bfloat16).reshape(count, groups, -1, width)
    scores = (query @ key.to(torch.bfloat16).transpose(-1, -2)).view(count, groups, -1, length, keys)
    future = torch.full((length, keys), float("-inf"), dtype=scores.dtype).triu(keys - length + 1)
    share = torch.softmax(scores + future, -1, dtype=scores.dtype).view(count, groups, -1, keys)
    mixed = (share @ value.to(torch.bfloat16)).view(count, heads, length, width)
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register("grouped", _grouped)
