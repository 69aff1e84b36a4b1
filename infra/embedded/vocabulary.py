"""The tokenizer: byte-level BPE in which every digit, and every space before a free value, stands alone.

A value must be the same tokens wherever it stands, after a space in the user's sentence or after a quote in a call's
arguments; otherwise copying it would mean learning every word twice. So words do not carry the space before them,
except common words that never begin a value.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS: Final = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
SIZE: Final = 2048
_WORDS: Final = (
    "is|are|was|the|my|your|of|and|a|to|you|me|do|for|it|that|what|how|much|time|tell|can|could|please|have|i|not|know|day"
    "|date|today|sums|be|will|an|about|does|many|there|with|this|called|named|calculate|keep|again|what|remember|which|where"
    "|when|who|add|anything|else|assistant|demo|model|help|also|cannot|nothing|noted|welcome|notes|did|has|current|from|or"
    "|plus|minus|times|divided|by|Use|tools|arithmetic|UTC"
)
_PATTERN: Final = rf" (?:{_WORDS})(?![A-Za-z])|[A-Za-z]+|\d|\n| ?[^\sA-Za-z\d]+(?: [^\sA-Za-z\d]+)* ?| |\s"


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Learn the vocabulary from rendered conversations."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tags = [AddedToken(tag, special=False, normalized=False) for tag in TAGS]
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - len(TAGS),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(tags)
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Return a token's number; the token must be in the vocabulary."""
    number = tokenizer.token_to_id(token)
    assert number is not None, f"no token {token!r}"
    return int(number)


def save_tokenizer(tokenizer: Tokenizer, folder: Path, chat_template: str) -> None:
    """Write the tokenizer's files as Hugging Face expects them."""
    tokenizer.save(str(folder / "tokenizer.json"))
    added: dict[str, Any] = {
        str(tokenizer.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token in SPECIAL,
        }
        for token in (*SPECIAL, *TAGS)
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "added_tokens_decoder": dict(sorted(added.items(), key=lambda item: int(item[0]))),
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
