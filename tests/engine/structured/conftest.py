"""A tiny random checkpoint with a byte-level vocabulary, as grammars need one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from engine.structured.grammar import Vocabulary
from tests.engine.conftest import KINDS, SHAPE

SIZE = 420
"""Logits of the model: some more than its vocabulary has tokens, as is usual."""
END, TURN, CALL = "<|end|>", "<|turn|>", "<call>"
TEXTS = (
    '{"name": "value", "items": [1, 2, 3], "true": true, "false": false, "null": null}',
    "the quick brown fox jumps over the lazy dog while the others think about it all day long",
)


def tokenizer() -> Tokenizer:
    """Bytes, some merges, three special tokens and one that is added but not called special."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=380, show_progress=False, initial_alphabet=alphabet, special_tokens=[END, TURN]
    )
    made.train_from_iterator(TEXTS * 20, trainer)
    made.add_tokens([AddedToken(CALL, special=False), AddedToken("</think>", special=False)])
    return made


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    made = tokenizer()
    return Vocabulary(made.to_str(), SIZE, (made.token_to_id(END),))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint, with a tokenizer that ends answers with `END`."""
    # slow to import, so only when a test needs it
    import transformers  # noqa: PLC0415

    config = transformers.Qwen3Config(**{**SHAPE, "vocab_size": SIZE}, **KINDS["qwen3-tied"])
    torch.manual_seed(11)
    made = tmp_path_factory.mktemp("bytes")
    transformers.Qwen3ForCausalLM(config).eval().save_pretrained(made)
    tokenizer().save(str(made / "tokenizer.json"))
    (made / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}), encoding="utf-8")
    return made
