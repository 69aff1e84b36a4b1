"""Checkpoint folders without weights, in the shapes of known models: speed does not depend on what weights say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SMOL_135M: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 1,
}
"""SmolLM2-135M's."""
_ENDS = ("<|begin|>", "<|end|>")
_HEADS, _TAILS = "bcdfghjklmnprstvwz", ("a", "e", "i", "o", "u", "an", "er", "in", "on", "us", "ing", "ent")


def smol_135m(folder: Path) -> Path:
    """Write a folder of SmolLM2-135M's shape, with a tokenizer of as many tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SMOL_135M), encoding="utf-8")
    _tokenizer(SMOL_135M["vocab_size"]).save(str(folder / "tokenizer.json"))
    return folder


def _tokenizer(size: int) -> Tokenizer:
    """Make one whose tokens are bytes and words: to be read with, as nothing is ever spelled with it."""
    pieces = [*_ENDS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    syllables = [head + tail for head in _HEADS for tail in _TAILS]
    words = (f"Ġ{first}{second}" for first in syllables for second in ("", *syllables))
    pieces += [word for word, _ in zip(words, range(size - len(pieces)), strict=False)]
    pieces += [f"Ġn{number}" for number in range(size - len(pieces))]
    made = Tokenizer(models.BPE({piece: at for at, piece in enumerate(pieces)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True) for text in _ENDS])
    assert made.get_vocab_size() == size
    return made
