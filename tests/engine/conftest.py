"""Tiny random checkpoints as `transformers` writes them, with its own models to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

VOCABULARY = 101
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 8,
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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """Write the checkpoint of one of `KINDS`, once per session."""

    @cache
    def make(kind: str) -> Tiny:
        # slow to import, so only when a test needs it
        import transformers  # noqa: PLC0415

        family = "Qwen3" if kind.startswith("qwen3") else "Llama"
        config = getattr(transformers, f"{family}Config")(**SHAPE, **KINDS[kind])
        torch.manual_seed(7)
        reference = getattr(transformers, f"{family}ForCausalLM")(config).eval()
        with torch.no_grad():  # norms and biases start as ones and zeros, which would hide a mistake
            for name, weight in reference.named_parameters():
                if "norm" in name or name.endswith("bias"):
                    weight.uniform_(0.5, 1.5)
        folder = tmp_path_factory.mktemp(kind)
        reference.save_pretrained(folder)
        return Tiny(folder, reference)

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
