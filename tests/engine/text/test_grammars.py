"""Calls that a grammar lets through are read as those calls, and nothing else is let through."""
# ruff: noqa: E501, RUF001

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest

from engine.text.formats import FORMATS, HARMONY, HERMES, NONE, Format
from engine.text.grammars import calling_grammar
from engine.text.parsers import OutputParser, Thinking, Wanted
from engine.text.parts import Content
from schemas.messages import ToolSpec

llguidance = pytest.importorskip("llguidance")

ADD = ToolSpec(
    "add",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/$defs/number"}},
        "required": ["a"],
        "additionalProperties": False,
        "$defs": {"number": {"type": "number"}},
    },
)
SAY = ToolSpec(
    "say",
    parameters={
        "type": "object",
        "properties": {"text": {"type": "string"}, "tone": {"enum": ["calm", "loud"]}, "to": {"type": "array"}},
        "additionalProperties": False,
    },
)
TOOLS = (ADD, SAY)
SCHEMAS = {tool.name: tool.parameters for tool in TOOLS}
SPECIAL = {"<tool_call>": 3, "</tool_call>": 4, "<think>": 5, "</think>": 6}

WRITTEN: dict[str, list[str]] = {
    "hermes": [
        '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2.5}}\n</tool_call>',
        '<tool_call>\n{"name": "say", "arguments": {"text": "a\\"b"}}\n</tool_call>\n<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>',
    ],
    "llama3_json": [
        '{"name": "add", "parameters": {"a": 1}}',
        '{"name": "add", "parameters": {"a": 1}}; {"name": "say", "parameters": {"tone": "calm"}}',
    ],
    "pythonic": ["[add(a=1, b=2.5)]", '[add(a=1), say(text="x", to=["y", 1])]', '[say(tone="loud")]', "[say()]"],
    "olmo3": ["<function_calls>\nadd(a=1)</function_calls>"],
    "qwen3_coder": [
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n2.5\n</parameter>\n</function>\n</tool_call>",
        "<tool_call>\n<function=say>\n<parameter=text>\ntwo\nlines <b>\n</parameter>\n<parameter=tone>\nloud\n</parameter>\n</function>\n</tool_call>",
    ],
    "seed_oss": ["<seed:tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</seed:tool_call>"],
    "glm": [
        "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
        "<tool_call>say\n<arg_key>text</arg_key>\n<arg_value>x < y</arg_value>\n</tool_call>",
    ],
    "minimax": [
        '<minimax:tool_call>\n<invoke name="add">\n<parameter name="a">\n1\n</parameter>\n</invoke>\n</minimax:tool_call>'
    ],
    "mistral": ['[TOOL_CALLS]add[ARGS]{"a": 1}', '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]'],
    "deepseek_v3": [
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{"a": 1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    ],
    "deepseek_v31": [
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜><｜tool▁call▁begin｜>say<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    ],
    "kimi_k2": [
        '<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|><|tool_calls_section_end|>'
    ],
    "harmony": [
        '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1}',
        '<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.add json<|message|>{"a": 1}',
        ' to=functions.add<|channel|>commentary <|constrain|>json<|message|>{"a": 1}',
    ],
}


class Bound:
    """An answer, byte by byte, in a grammar."""

    def __init__(self, grammar: str) -> None:
        self.tokenizer = llguidance.LLTokenizer("byte")
        self.matcher = llguidance.LLMatcher(self.tokenizer, llguidance.LLMatcher.grammar_from_lark(grammar))
        assert not self.matcher.is_error(), f"{self.matcher.get_error()}\n{grammar}"

    def takes(self, text: str) -> bool:
        """Say whether it may be the whole answer."""
        return all(self.matcher.consume_token(byte) for byte in text.encode()) and self.matcher.is_accepting()


def grammar(format_: Format, **more: Any) -> str:
    wanted = Wanted(format_, more.pop("thinking", None), schemas=SCHEMAS, most_calls=more.pop("most_calls", None))
    return calling_grammar(wanted, TOOLS, more.pop("special", {}), **more)


def test_every_format_has_a_grammar_but_the_one_without_calls() -> None:
    assert set(WRITTEN) == set(FORMATS) - {"none"}
    assert grammar(NONE) == ""


@pytest.mark.parametrize("name", WRITTEN)
def test_calls_as_models_write_them_are_let_through_and_read(name: str) -> None:
    for text in WRITTEN[name]:
        assert Bound(grammar(FORMATS[name])).takes(text), text
        parser = OutputParser((), Wanted(FORMATS[name], schemas=SCHEMAS))
        parser.feed(text)
        parser.finish()
        assert parser.calls, text
        assert {call.name for call in parser.calls} <= {"add", "say"}
        for call in parser.calls:
            assert set(json.loads(call.arguments)) <= set(SCHEMAS[call.name]["properties"])


def walked(bound: Bound, seed: int) -> str | None:
    """Write anything that a grammar lets through, closing what is open more often than not; `None` if it has no end."""
    said = bytearray()
    for step in range(600):
        chance = zlib.crc32(f"{seed} {step}".encode())
        if bound.matcher.is_accepting() and (bound.matcher.is_stopped() or chance & 1):
            return said.decode(errors="replace")
        bits = bound.matcher.compute_bitmask()
        every = [byte for byte in range(256) if bits[byte // 8] >> byte % 8 & 1]
        allowed = [byte for byte in every if byte < 128] or every
        closing = [byte for byte in allowed if chr(byte) in '"}])<>|']
        if not allowed:
            return None
        choices = closing if closing and chance & 2 else allowed
        said.append(choices[(chance >> 2) % len(choices)])
        assert bound.matcher.consume_token(said[-1])
    return None


@pytest.mark.parametrize("name", WRITTEN)
def test_whatever_is_let_through_is_read_as_calls_and_nothing_else(name: str) -> None:
    lark, ended = grammar(FORMATS[name]), 0
    for seed in range(12):
        text = walked(Bound(lark), seed)
        if text is not None:
            parser = OutputParser((), Wanted(FORMATS[name], schemas=SCHEMAS))
            parts = [*parser.feed(text), *parser.finish()]
            assert parser.calls, text
            assert not any(isinstance(part, Content) for part in parts), text
            ended += 1
    assert ended


@pytest.mark.parametrize("name", WRITTEN)
def test_neither_text_nor_other_tools_nor_other_types_are_let_through(name: str) -> None:
    first = WRITTEN[name][0]
    for text in ("Sure.", f"Sure. {first}", first.replace("add", "bad"), first.replace("1", '"x"'), first[:-1]):
        assert not Bound(grammar(FORMATS[name])).takes(text), text


@pytest.mark.parametrize("name", WRITTEN)
def test_no_blanks_without_end_are_let_through(name: str) -> None:
    """A model that has no idea would write nothing else until its tokens run out."""
    places = [(text, at + 1) for text in WRITTEN[name] for at, char in enumerate(text) if char in "{}[]:, \n>"]
    for text, end in places:
        bound, taken = Bound(grammar(FORMATS[name])), 0
        if all(bound.matcher.consume_token(byte) for byte in text[:end].encode()):
            while taken < 200 and bound.matcher.consume_token(ord(" ")):
                taken += 1
            assert taken < 200 or bound.matcher.consume_token(ord("x")), text[:end]


@pytest.mark.parametrize("name", ["hermes", "llama3_json", "pythonic", "deepseek_v31"])
def test_one_call_is_no_more_than_one(name: str) -> None:
    texts = WRITTEN[name]
    more = texts[-1] if name in {"hermes", "llama3_json", "deepseek_v31"} else texts[1]
    assert Bound(grammar(FORMATS[name])).takes(more)
    assert not Bound(grammar(FORMATS[name], most_calls=1)).takes(more)


def test_reasoning_may_come_before_a_call_where_it_has_not_begun() -> None:
    thinking = Thinking("think", "<think>", "</think>")
    text = f"<think>\nhm <tool_call>\n</think>\n\n{WRITTEN['hermes'][0]}"
    assert Bound(grammar(HERMES, thinking=thinking)).takes(text)
    assert Bound(grammar(HERMES, thinking=thinking)).takes(WRITTEN["hermes"][0])
    assert not Bound(grammar(HERMES, thinking=thinking)).takes("<think>hm</think>4")


def test_special_tokens_stand_for_themselves() -> None:
    thinking = Thinking("think", "<think>", "</think>")
    lark = grammar(HERMES, thinking=thinking, special=SPECIAL)
    assert "<[3]>" in lark
    assert '"<tool_call>"' not in lark


def test_among_text_every_call_that_begins_is_whole() -> None:
    lark = grammar(HERMES, required=False)
    for text in ("4", "Sure.\n" + WRITTEN["hermes"][1] + " Done.", ""):
        assert Bound(lark).takes(text), text
    assert not Bound(lark).takes("Sure. <tool_call>{}</tool_call>")
    assert not Bound(lark).takes('<tool_call>\n{"name": "bad"')
    assert grammar(FORMATS["llama3_json"], required=False) == ""
    assert grammar(HARMONY, required=False) == ""


@pytest.mark.parametrize(
    ("name", "begin", "key", "end"),
    [
        (
            "qwen3_coder",
            "<tool_call>\n<function=say>\n<parameter=text>\n",
            "<parameter=other>\n",
            "</function>\n</tool_call>",
        ),
        (
            "seed_oss",
            "<seed:tool_call>\n<function=say>\n<parameter=text>\n",
            "<parameter=other>\n",
            "</function>\n</seed:tool_call>",
        ),
        (
            "minimax",
            '<minimax:tool_call>\n<invoke name="say">\n<parameter name="text">\n',
            '<parameter name="other">\n',
            "</invoke>\n</minimax:tool_call>",
        ),
    ],
)
def test_a_text_holds_no_other_argument(name: str, begin: str, key: str, end: str) -> None:
    for text in ("x", "x</parameter>", "x\n"):
        assert not Bound(grammar(FORMATS[name])).takes(f"{begin}{text}</parameter>{key}\n</parameter>\n{end}")
    assert Bound(grammar(FORMATS[name])).takes(f"{begin}x</parameter>\n{end}")
    assert Bound(grammar(FORMATS[name])).takes(f"{begin}x\n</parameter>\n{end}")


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_a_list_of_what_is_required_that_is_none_does_not_break_the_grammar(name: str) -> None:
    for nonsense in (5, "a", [1, None], {"a": 1}):
        tool = ToolSpec("add", parameters={**ADD.parameters, "required": nonsense})
        assert tool.name in calling_grammar(Wanted(FORMATS[name]), (tool,), {})
