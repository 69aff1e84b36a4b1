"""Tiny random checkpoints as `transformers` writes them, with its own models to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import PlatformUnavailable
from engine.kernels.ops import load_ops
from engine.models.decoder import Decoder
from engine.platforms import Platform

VOCABULARY = 101
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 16,
    "max_position_embeddings": 256,
    # far from the usual 0.02, so that attention is sharp and greedy tokens vary
    "initializer_range": 0.3,
}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 8.0, "original_max_position_embeddings": 32}
DEEPSEEK_YARN = YARN | {"beta_fast": 4.0, "beta_slow": 0.5, "mscale": 1.0, "mscale_all_dim": 0.7, "truncate": False}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "short_factor": [1.0, 1.1, 1.2, 1.25, 1.3, 1.4],
    "long_factor": [2.0, 3.0, 5.0, 6.0, 7.0, 9.0],
    "partial_rotary_factor": 0.75,
}
WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]
KINDS: dict[str, dict[str, Any]] = {
    "qwen3-tied": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3-untied": {"num_key_value_heads": 4, "tie_word_embeddings": False, "attention_bias": True},
    "llama-untied": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "llama-tied-scaled": {
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": SCALED,
    },
    "llama-linear": {"num_key_value_heads": 2, "rope_parameters": LINEAR},
    "llama-dynamic": {"num_key_value_heads": 2, "rope_parameters": DYNAMIC},
    "llama-yarn": {"num_key_value_heads": 2, "rope_parameters": YARN},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen2-windowed": {
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "sliding_window": 9,
        "max_window_layers": 1,
        "rope_parameters": DEEPSEEK_YARN,
    },
    "qwen3-windowed": {
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "sliding_window": 9,
        "max_window_layers": 1,
    },
    "qwen3moe": {
        "num_key_value_heads": 2,
        "num_hidden_layers": 3,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "norm_topk_prob": True,
        "mlp_only_layers": [1],
    },
    "qwen3moe-plain": {
        "num_key_value_heads": 4,
        "num_experts": 5,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 16,
        "norm_topk_prob": False,
        "tie_word_embeddings": True,
    },
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "mistral": {"num_key_value_heads": 2, "sliding_window": None},
    "mistral-windowed": {"num_key_value_heads": 1, "sliding_window": 9},
    "phi3": {"num_key_value_heads": 2, "sliding_window": 16, "rope_parameters": {"rope_type": "default"}},
    "phi3-partial": {
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    },
    "olmo2": {"num_key_value_heads": 2},
    "gemma2": {
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "sliding_window": 9,
        "query_pre_attn_scalar": 11,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 5.0,
    },
    "gemma3": {
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "sliding_window": 9,
        "query_pre_attn_scalar": 11,
        "layer_types": WINDOWS,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 8.0},
        },
    },
}
CLASSES = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "qwen3moe": "Qwen3Moe",
    "mixtral": "Mixtral",
    "phi3": "Phi3",
    "olmo2": "Olmo2",
    "gemma2": "Gemma2",
    "gemma3": "Gemma3",
}


@dataclass(frozen=True)
class Tiny:
    """A checkpoint folder and the model that wrote it."""

    folder: Path
    reference: Any

    def logits(self, tokens: list[int]) -> torch.Tensor:
        """Return the reference's logits after every token, [tokens, vocabulary]."""
        with torch.inference_mode():
            found: torch.Tensor = self.reference(torch.tensor([tokens])).logits[0]
        return found

    def greedy(self, tokens: list[int], count: int, **wanted: Any) -> list[int]:
        """Return the reference's own greedy continuation; `wanted` is more for its `generate`."""
        ids = torch.tensor([tokens])
        # without a mask `generate` takes every 0 in the prompt for padding
        given = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, "attention_mask": torch.ones_like(ids)}
        out = self.reference.generate(ids, max_new_tokens=count, **given | wanted)
        found: list[int] = out[0, len(tokens) :].tolist()
        return found


def platform(ops: str) -> Platform:
    """The processor with some ops, if this one has them."""
    try:
        load_ops(ops)
    except PlatformUnavailable as error:
        pytest.skip(str(error))
    return Platform(kind="cpu", device=torch.device("cpu"), name="test", ops=ops)


def grouped(model: Decoder) -> dict[str, Any]:
    """Return what a scheduler has to know of a model's layers."""
    groups = model.config.groups
    return {"window": groups.window, "groups": groups.count, "windowed": max(groups.windowed, 1)}


@pytest.fixture(autouse=True, scope="session")
def sums_in_one_order() -> None:
    """Have Triton's interpreter add up a product's terms in the same order for every row.

    It calls a BLAS, and on some processors that gives a row other last bits at another place of the same tile: tests of
    what a row's neighbours change would tell of the BLAS, not of our kernels.
    """
    try:
        interpreter: Any = import_module("triton.runtime.interpreter")
    except ImportError:  # without the extra 'gpu' nothing is interpreted
        return

    def matmul(a: Any, b: Any, dtype: Any) -> Any:
        return np.einsum("...mk,...kn->...mn", a.astype(dtype), b.astype(dtype))

    interpreter.np = _NumpyWith(matmul)


class _NumpyWith:
    """NumPy with another `matmul`."""

    def __init__(self, matmul: Callable[..., Any]) -> None:
        self.matmul = matmul

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """Write the checkpoint of one of `KINDS`, once per session."""

    @cache
    def make(kind: str) -> Tiny:
        return write_tiny(tmp_path_factory.mktemp(kind), kind, **KINDS[kind])

    return make


Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution on the path, as an installer leaves it: a module, and a folder that says what it offers."""

    def installed(name: str, source: str, **groups: str) -> None:
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        about = tmp_path / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        lines = [f"[ostinato.{group}]\n{entry}\n" for group, entry in groups.items()]
        (about / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)

    return installed


def write_tiny(folder: Path, kind: str, **changes: Any) -> Tiny:
    """Write a checkpoint of the family that `kind` begins with."""
    # slow to import, so only when a test needs it
    import transformers  # noqa: PLC0415

    kind = kind.split("-")[0]
    build = getattr(transformers, f"{CLASSES[kind]}ForCausalLM")
    # no token of the vocabulary is padding: a model must not treat one as such
    config = build.config_class(**SHAPE | {"pad_token_id": None} | changes)
    torch.manual_seed(7)
    reference = build(config).eval()
    # Gemma adds one to the weights of its norms
    low, high = (-0.5, 0.5) if kind.startswith("gemma") else (0.5, 1.5)
    with torch.no_grad():  # norms and biases start as ones and zeros, which would hide a mistake
        for name, weight in reference.named_parameters():
            if "norm" in name or name.endswith("bias"):
                weight.uniform_(low, high)
    reference.save_pretrained(folder)
    return Tiny(folder, reference)
