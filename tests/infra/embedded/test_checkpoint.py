"""The checkpoint's files, its tokenizer and its chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from infra.embedded.agent import INSTRUCTIONS, TOOLS
from infra.embedded.dialogues import held_out
from infra.embedded.template import CHECKPOINT, read_answer, render, render_prompt
from infra.embedded.vocabulary import token_id

TOKENIZER = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
CONFIG = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
SHAPE = [CONFIG["vocab_size"], CONFIG["hidden_size"]]
TOOLS_AS_GIVEN = """\
{"type": "function", "function": {"name": "calculator", "description": "Work out an arithmetic expression.", \
"parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}}}
{"type": "function", "function": {"name": "clock", "description": "Tell the current date and time.", \
"parameters": {"type": "object", "properties": {}}}}
{"type": "function", "function": {"name": "save_note", "description": "Remember a fact under a topic.", \
"parameters": {"type": "object", "properties": {"topic": {"type": "string"}, "text": {"type": "string"}}, \
"required": ["topic", "text"]}}}
{"type": "function", "function": {"name": "find_note", "description": "Recall what was remembered about a topic.", \
"parameters": {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}}}"""


def test_the_agent_is_the_one_the_model_was_trained_for() -> None:
    assert "\n".join(json.dumps(tool) for tool in TOOLS) == TOOLS_AS_GIVEN
    assert INSTRUCTIONS == (
        "You are Ostinato's demo assistant. Use the tools for arithmetic, for the date and time, and for notes."
    )


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors",
    ],
)
def test_the_checkpoint_has_the_file(name: str) -> None:
    assert (CHECKPOINT / name).stat().st_size > 0


def test_the_weights_are_bf16_and_small() -> None:
    size = sum(file.stat().st_size for file in Path(CHECKPOINT).iterdir())
    assert size <= 20 * 2**20
    with safe_open(CHECKPOINT / "model.safetensors", framework="pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118
        assert weights.get_slice("model.embed_tokens.weight").get_shape() == SHAPE


def test_the_configuration_is_a_tied_qwen3_that_ends_where_a_turn_ends() -> None:
    generation = json.loads((CHECKPOINT / "generation_config.json").read_text(encoding="utf-8"))
    assert CONFIG["model_type"] == "qwen3"
    assert CONFIG["tie_word_embeddings"] is True
    assert CONFIG["vocab_size"] == TOKENIZER.get_vocab_size()
    assert generation["eos_token_id"] == CONFIG["eos_token_id"] == TOKENIZER.token_to_id("<|im_end|>")


@pytest.mark.parametrize(
    "text",
    ["Zorbin-4821, naïve 東京 🎵", "  two  spaces\n\n\ttab", "12345.678 ÷ -9", '{"a": "b\\"c"}', "the brown fox"],
)
def test_text_survives_the_tokenizer(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_every_digit_is_its_own_token() -> None:
    assert all(sum(sign.isdigit() for sign in token) <= 1 for token in TOKENIZER.get_vocab())
    assert TOKENIZER.encode("8675309").tokens == list("8675309")


def test_a_value_has_the_same_tokens_in_a_sentence_and_in_a_call() -> None:
    for value in ("zorbin", "Zorbin", "4821", "KX-77", "tooth brush"):
        ids = TOKENIZER.encode(value).ids
        for text in (f"my thing is {value}.", f'"text": "{value}"}}', f"{value}?"):
            found = TOKENIZER.encode(text).ids
            assert any(found[at : at + len(ids)] == ids for at in range(len(found))), (value, text)


@pytest.mark.parametrize("tag", ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"])
def test_a_tag_is_one_token_that_stays_in_the_text(tag: str) -> None:
    ids = TOKENIZER.encode(f"a{tag}b", add_special_tokens=False).ids
    assert TOKENIZER.token_to_id(tag) in ids
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == f"a{tag}b"


@pytest.mark.parametrize("token", ["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
def test_a_special_token_is_dropped_from_the_text(token: str) -> None:
    ids = TOKENIZER.encode(f"a{token}b", add_special_tokens=False).ids
    assert ids.count(token_id(TOKENIZER, token)) == 1
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "ab"


def test_a_prompt_begins_with_the_prompt_before_it_and_what_was_generated() -> None:
    for conversation in held_out(100):
        messages, tools = conversation.messages(), conversation.setting.tools
        for at, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, after = render_prompt(messages[:at], tools), render(messages[: at + 1], tools)
            assert after.startswith(before)
            generated = after.removeprefix(before).removesuffix("<|im_end|>\n")
            said = [*messages[:at], read_answer(generated)]
            assert render(said, tools) == after
            if at + 1 < len(messages):
                assert render_prompt(messages, tools).startswith(before + generated + "<|im_end|>\n")


def test_tool_calls_and_results_are_written_as_trained() -> None:
    call: dict[str, Any] = {"name": "calculator", "arguments": '{"expression": "12 * 7"}'}
    as_object = {"name": "calculator", "arguments": {"expression": "12 * 7"}}
    for function in (call, as_object):
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": "12 * 7, twice"},
            {"role": "assistant", "content": None, "tool_calls": [{"function": function}, {"function": function}]},
            {"role": "tool", "content": "84"},
            {"role": "tool", "content": "84"},
        ]
        written = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "12 * 7"}}\n</tool_call>'
        result = "\n<tool_response>\n84\n</tool_response>"
        assert render_prompt(messages, ()) == (
            "<|im_start|>user\n12 * 7, twice<|im_end|>\n"
            f"<|im_start|>assistant\n{written}\n{written}<|im_end|>\n"
            f"<|im_start|>user{result}{result}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )


def test_tools_are_listed_one_on_a_line_after_the_instructions() -> None:
    text = render([{"role": "system", "content": INSTRUCTIONS}], TOOLS)
    assert text.startswith(f"<|im_start|>system\n{INSTRUCTIONS}\n\n# Tools\n<tools>\n{TOOLS_AS_GIVEN}\n</tools>\n")
    assert text.endswith("<|im_end|>\n")
    assert render([{"role": "user", "content": "Hi"}], TOOLS).startswith("<|im_start|>system\n# Tools\n<tools>\n")
    assert render([{"role": "user", "content": "Hi"}], ()) == "<|im_start|>user\nHi<|im_end|>\n"
