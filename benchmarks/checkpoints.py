"""Checkpoints to measure with: the shapes of two known models with weights from a seed, as every engine reads them.

A folder in Hugging Face layout with bfloat16 weights, and a byte-level tokenizer whose tokens are all text, so that no
engine holds back what it cannot show yet. Made once and kept.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SEED: Final = 20_260
VERSION: Final = 1
"""Of what is made here: one more makes all that is kept anew."""
_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_COMMON: Final[dict[str, Any]] = {
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
CONFIGS: Final[Mapping[str, dict[str, Any]]] = {
    "smol-135m": _COMMON
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "vocab_size": 49_152,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100_000.0,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
    },
    "qwen3-0.6b": _COMMON
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "max_position_embeddings": 40_960,
        "use_sliding_window": False,
    },
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model that is there to be served."""

    name: str
    folder: Path
    config: Mapping[str, Any]

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return int(self.config["vocab_size"])

    @property
    def head(self) -> int:
        """Weights that a sampled token is multiplied with once it is through the layers; the embedding is the same."""
        return self.vocabulary * int(self.config["hidden_size"])

    @property
    def body(self) -> int:
        """Weights that every token is multiplied with in the layers."""
        config = self.config
        hidden, size = config["hidden_size"], config["head_dim"]
        heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
        attention = hidden * size * (2 * heads + 2 * shared)
        return int(config["num_hidden_layers"] * (attention + 3 * hidden * config["intermediate_size"]))

    @property
    def decoded_bytes(self) -> int:
        """Bytes of weights that are read for one token of one sequence, in bfloat16."""
        return 2 * (self.body + self.head)

    @property
    def kv_bytes(self) -> int:
        """Bytes that a token of the context takes in bfloat16."""
        config = self.config
        return int(4 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"])


def checkpoint(name: str, cache: Path, config: Mapping[str, Any] | None = None) -> Checkpoint:
    """Give a checkpoint, made if it is not kept; `config` is another shape than the known one of that name."""
    config = config or CONFIGS[name]
    key = hashlib.sha256(json.dumps([VERSION, SEED, config], sort_keys=True).encode()).hexdigest()[:12]
    folder = cache / f"{name}-{key}"
    if not folder.exists():
        unready = cache / f"{name}-{key}.unready"
        shutil.rmtree(unready, ignore_errors=True)
        describe(unready, config)
        save_file(dict(_weights(config)), str(unready / "model.safetensors"), metadata={"format": "pt"})
        unready.rename(folder)
    return Checkpoint(name, folder, config)


def digest(made: Checkpoint) -> str:
    """Name the weights by their content."""
    with (made.folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def describe(folder: Path, config: Mapping[str, Any]) -> Path:
    """Write all of a checkpoint but its weights, for who makes those up."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    for name, told in {"config.json": config, "generation_config.json": ends | {"do_sample": False}}.items():
        (folder / name).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    _tokenizer(config["vocab_size"]).save(str(folder / "tokenizer.json"), pretty=False)
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[0],
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        "chat_template": _TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    return folder


def _tokenizer(size: int) -> Tokenizer:
    """Make a byte-level BPE tokenizer: bytes, then pairs of letters, then three, until there are enough."""
    vocabulary = {token: number for number, token in enumerate(SPECIAL)}
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[letter] = len(vocabulary)
    merges: list[tuple[str, str]] = []
    for pair in itertools.islice(_pairs(), size - len(vocabulary)):
        merges.append(pair)
        vocabulary["".join(pair)] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def _pairs() -> Iterator[tuple[str, str]]:
    letters = string.ascii_letters + string.digits
    yield from itertools.product(letters, letters)
    for first, second in itertools.product(letters, letters):
        yield from ((first + second, third) for third in letters)


def _weights(config: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Draw every tensor; norms are near 1."""
    generator = torch.Generator().manual_seed(SEED)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.empty(shape).normal_(0.0, 0.02, generator=generator).to(torch.bfloat16)

    def norm(size: int) -> torch.Tensor:
        return (1 + 0.1 * torch.empty(size).normal_(generator=generator)).to(torch.bfloat16)

    hidden, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, shared = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    yield "model.embed_tokens.weight", drawn(config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", norm(hidden)
        for name, rows in {"q": heads, "k": shared, "v": shared}.items():
            yield f"{at}.self_attn.{name}_proj.weight", drawn(rows, hidden)
        yield f"{at}.self_attn.o_proj.weight", drawn(hidden, heads)
        if config["model_type"] == "qwen3":
            for name in ("q", "k"):
                yield f"{at}.self_attn.{name}_norm.weight", norm(size)
        yield f"{at}.post_attention_layernorm.weight", norm(hidden)
        for name in ("gate", "up"):
            yield f"{at}.mlp.{name}_proj.weight", drawn(inner, hidden)
        yield f"{at}.mlp.down_proj.weight", drawn(hidden, inner)
    yield "model.norm.weight", norm(hidden)
