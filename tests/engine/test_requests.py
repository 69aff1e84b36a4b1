"""What a request's parameters make of its prompt."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from engine.errors import BadRequest
from engine.requests import raw_tokens, settled, truncated
from engine.text.tokenizer import Tokenizer
from infra.settings import EMBEDDED_CHECKPOINT
from schemas.generation import Repetition, Sampling
from schemas.structured import Structured

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


@pytest.mark.parametrize(
    "wanted",
    [
        {"temperature": float("nan")},
        {"temperature": -0.1},
        {"top_p": 1.5},
        {"top_k": -2},
        {"repetition_penalty": 0.0},
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"logprobs": -1},
        {"prompt_logprobs": -2},
        {"prompt_logprob_start": -1},
        {"thinking_budget": -1},
        {"logprob_token_ids": (3, -3)},
        {"prompt_logprob_token_ids": (3, -3)},
        {"prompt_logprob_token_ids": ((3,), (-3,))},
        {"prompt_logprob_token_ids": (3, (3,))},
        {"truncate_prompt_tokens": -2},
        {"logit_bias": {3: float("nan")}},
        {"bad_words": ((1,), ())},
        {"repetition": Repetition(3, shortest=-1)},
        {"repetition": Repetition(3, times=1)},
    ],
)
@pytest.mark.parametrize("given", [(), (1, 2)])
def test_numbers_out_of_bounds_are_refused_by_name(wanted: dict[str, Any], given: tuple[int, ...]) -> None:
    (field,) = wanted
    with pytest.raises(BadRequest, match=f"^{field}: "):
        settled(Sampling(trace_decode_token_ids=given, **wanted), TOKENIZER)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({"prompt_logprob_token_ids": (1, 2, 3)}, True),
        ({"prompt_logprob_token_ids": ((1,), (), (2, 3), (4,))}, True),
        ({"prompt_logprob_token_ids": ((1,), ()), "prompt_logprob_start": 2}, True),
        ({"prompt_logprob_token_ids": ((1,),), "truncate_prompt_tokens": 2}, True),
        ({"prompt_logprob_token_ids": ((1,), ())}, False),
        ({"prompt_logprob_token_ids": ((1,),), "prompt_logprob_start": 9}, False),
    ],
)
def test_there_is_a_list_of_candidates_for_each_token_of_a_prompt_that_is_told_of(
    wanted: dict[str, Any], fits: bool
) -> None:
    sampling = settled(Sampling(**wanted), TOKENIZER)
    assert sampling.prompt_logprobs == 0
    if fits:
        truncated(PROMPT, sampling, 8)
    else:
        with pytest.raises(BadRequest, match=r"^prompt_logprob_token_ids: there are \d lists, and \d tokens"):
            truncated(PROMPT, sampling, 8)


def test_tokens_that_are_given_end_an_answer_and_nothing_else_does() -> None:
    given = Sampling(trace_decode_token_ids=(1, 2, 3), min_tokens=2, stop_tokens=(2,), max_tokens=9)
    done = settled(given, TOKENIZER, (), (7,))
    assert (done.max_tokens, done.min_tokens, done.stop_tokens, done.ignore_eos) == (3, 0, (), True)
    assert settled(replace(given, max_tokens=2), TOKENIZER).max_tokens == 2


@pytest.mark.parametrize(
    ("wanted", "words", "field"),
    [
        ({"structured": Structured("regex", "a+", field="response_format")}, (), "response_format"),
        ({"bad_words": ((1,),)}, (), "bad_words"),
        ({}, ("word",), "bad_words"),
        ({"repetition": Repetition(4)}, (), "repetition_detection"),
        ({"thinking_budget": 3}, (), "thinking_token_budget"),
        ({"trace_decode_token_ids": (1, 1 << 30)}, (), "trace_decode_token_ids"),
    ],
)
def test_what_would_decide_about_tokens_that_are_given_is_refused(
    wanted: dict[str, Any], words: tuple[str, ...], field: str
) -> None:
    with pytest.raises(BadRequest, match=f"^{field}: "):
        settled(Sampling(**{"trace_decode_token_ids": (1, 2), **wanted}), TOKENIZER, words)


def test_a_raw_prompt_is_text_or_the_model_s_own_tokens() -> None:
    assert raw_tokens("Hello", TOKENIZER) == TOKENIZER.encode("Hello")
    assert raw_tokens(PROMPT, TOKENIZER) == list(PROMPT)
    with pytest.raises(BadRequest, match="prompt"):
        raw_tokens((TOKENIZER.size,), TOKENIZER)


@pytest.mark.parametrize(("asked", "taken"), [(1e-40, 0.0), (9e-6, 0.0), (1e-5, 1e-5), (0.7, 0.7)])
def test_a_temperature_by_which_no_logits_can_be_divided_is_greedy(asked: float, taken: float) -> None:
    assert settled(Sampling(temperature=asked), TOKENIZER).temperature == taken
