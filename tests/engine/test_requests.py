"""What a request's parameters make of its prompt."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import BadRequest
from engine.requests import raw_tokens, truncated
from engine.text.tokenizer import Tokenizer
from infra.settings import EMBEDDED_CHECKPOINT
from schemas.generation import Sampling

PROMPT = (1, 2, 3, 4, 5)
TOKENIZER = Tokenizer.load(EMBEDDED_CHECKPOINT)


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ({}, PROMPT),
        ({"truncate_prompt_tokens": 2}, (4, 5)),
        ({"truncate_prompt_tokens": 2, "truncation_side": "right"}, (1, 2)),
        ({"truncate_prompt_tokens": 9}, PROMPT),
        ({"truncate_prompt_tokens": -1, "max_tokens": 5}, (3, 4, 5)),
        ({"truncate_prompt_tokens": -1, "max_tokens": 50}, (5,)),
        ({"truncation_side": "right"}, PROMPT),
    ],
)
def test_a_prompt_is_as_long_as_asked_for(wanted: dict[str, Any], kept: tuple[int, ...]) -> None:
    assert truncated(PROMPT, Sampling(**wanted), context_length=8) == kept


def test_a_raw_prompt_is_text_or_the_model_s_own_tokens() -> None:
    assert raw_tokens("Hello", TOKENIZER) == TOKENIZER.encode("Hello")
    assert raw_tokens(PROMPT, TOKENIZER) == list(PROMPT)
    with pytest.raises(BadRequest, match="prompt"):
        raw_tokens((TOKENIZER.size,), TOKENIZER)
