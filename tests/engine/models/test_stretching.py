"""Rotations that are stretched beyond the positions of training compute what `transformers` computes there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import CheckpointError
from engine.models.config import read_model_config
from engine.models.registry import load_model
from tests.engine.conftest import DYNAMIC, LONG, SHAPE, VOCABULARY, YARN, Tiny, write_tiny
from tests.engine.models.test_logits import logits_by_steps, platform

LONGROPE: dict[str, Any] = {
    # `transformers` counts factors by heads that share the width evenly
    "hidden_size": SHAPE["num_attention_heads"] * SHAPE["head_dim"],
    "num_key_value_heads": 2,
    "original_max_position_embeddings": 40,
    "max_position_embeddings": 160,
    "rope_parameters": LONG,
}


def tokens_of(length: int) -> list[int]:
    found: list[int] = np.random.default_rng(length).integers(0, VOCABULARY, length).tolist()
    return found


def token_by_token(tiny: Tiny, tokens: list[int]) -> torch.Tensor:
    """Return the logits of `transformers` when it adds one token after another to its cache."""
    logits, cache = [], None
    with torch.inference_mode():
        for token in tokens:
            out = tiny.reference(torch.tensor([[token]]), cache=cache, use_cache=True)
            cache = out.cache
            logits.append(out.logits[0, 0])
    return torch.stack(logits)


def test_a_model_that_serves_long_contexts_has_the_long_factors(tmp_path: Path) -> None:
    tiny = write_tiny(tmp_path, "phi3", **LONGROPE)
    model = load_model(tmp_path, platform("cpu"))
    tokens = tokens_of(90)
    (found,) = logits_by_steps(model, [tokens], 4, np.random.default_rng(1))
    # the short ones of `transformers` end where its sequence gets longer than the original positions
    assert (found - tiny.logits(tokens)).abs().max() <= 1e-4
    short = tokens[:40]
    (found,) = logits_by_steps(model, [short], 4, np.random.default_rng(1))
    assert (found - tiny.logits(short)).abs().max() > 1e-2


def test_a_model_that_serves_short_contexts_has_the_short_factors(tmp_path: Path) -> None:
    tiny = write_tiny(tmp_path, "phi3", **LONGROPE)
    model = load_model(tmp_path, platform("cpu"), context_length=40)
    assert model.config.context_length == 40
    tokens = tokens_of(40)
    (found,) = logits_by_steps(model, [tokens], 4, np.random.default_rng(1))
    assert (found - tiny.logits(tokens)).abs().max() <= 1e-4


def test_beyond_its_positions_a_dynamic_rotation_is_that_of_transformers_token_by_token(tmp_path: Path) -> None:
    tiny = write_tiny(tmp_path, "llama", max_position_embeddings=24, num_key_value_heads=2, rope_parameters=DYNAMIC)
    model = load_model(tmp_path, platform("cpu"))
    assert model.config.context_length == 96
    tokens = tokens_of(90)
    (found,) = logits_by_steps(model, [tokens], 4, np.random.default_rng(1))
    assert (found - token_by_token(tiny, tokens)).abs().max() <= 1e-4


def test_a_yarn_model_serves_what_it_was_stretched_to(tmp_path: Path) -> None:
    write_tiny(tmp_path, "qwen2", max_position_embeddings=32, num_key_value_heads=2, rope_parameters=YARN)
    assert read_model_config(tmp_path).context_length == 32 * 8


@pytest.mark.parametrize("kind", ["su", "yarn"])
def test_old_names_of_longrope_are_read(tmp_path: Path, kind: str) -> None:
    write_tiny(tmp_path, "phi3", **LONGROPE)
    config = tmp_path / "config.json"
    new = read_model_config(tmp_path)
    config.write_text(config.read_text(encoding="utf-8").replace('"longrope"', f'"{kind}"'), encoding="utf-8")
    assert read_model_config(tmp_path) == new


def test_factors_of_the_wrong_number_are_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path, "phi3", **LONGROPE)
    config = tmp_path / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("0.75", "1.0"), encoding="utf-8")
    with pytest.raises(CheckpointError, match="must have 8 entries"):
        read_model_config(tmp_path)
