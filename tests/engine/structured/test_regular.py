"""Grammars as regular expressions, and arguments of calls that keep to them."""

from __future__ import annotations

import json
import re
from typing import Final

import pytest

from engine.structured.grammar import GrammarError
from engine.structured.regular import DEEPEST, MOST, regex_of_lark, whole_regex
from engine.text.formats import FORMATS
from engine.text.grammars import calling_grammar
from engine.text.parsers import OutputParser, Wanted
from engine.text.patterns import anchored, as_terminal, unanchored
from schemas.messages import ToolSpec
from tests.engine.text.test_grammars import Bound

PATCH: Final = """
// a patch, as agents that edit files write them
start: opening part+ closing
opening: "*** Begin Patch" LF
closing: "*** End Patch" LF?
part: added | removed | changed
added: "*** Add File: " path LF fresh+ -> fresh_file
removed: "*** Delete File: " path LF
changed: "*** Update File: " path LF moved? hunks?
path: /(.+)/
fresh: "+" /(.*)/ LF
moved: "*** Move to: " path LF
hunks: (place | line)+ ["*** End of File" LF]
place: ("@@" | "@@ " /(.+)/) LF
line: ("+" | "-" | " ") /(.*)/ LF
%import common.LF
"""
GOOD: Final = (
    '*** Begin Patch\n*** Add File: a.txt\n+say "hi"\n+\n*** End Patch',
    "*** Begin Patch\n*** Update File: a\\b\n*** Move to: c\n@@ def f():\n-\tx\n+y\n*** End of File\n*** End Patch\n",
    "*** Begin Patch\n*** Delete File: ä\n*** Update File: b\n*** End Patch\n",
)
BAD: Final = (
    "*** Begin Patch\n*** End Patch",
    "*** Begin Patch\n*** Add File: a.txt\nsay\n*** End Patch",
    GOOD[0] + "\n\n",
    "Sure: " + GOOD[0],
    "",
)


def test_a_grammar_and_its_expression_have_the_same_texts() -> None:
    expression = regex_of_lark(PATCH)
    assert all(re.fullmatch(expression, text) for text in GOOD)
    assert not any(re.fullmatch(expression, text) for text in BAD)


@pytest.mark.parametrize(
    ("source", "texts", "others"),
    [
        ('start: "a".."c" ~ 2..3', ["ab", "ccc"], ["a", "abca", "ad"]),
        ('start: "ab"i "."', ["aB."], ["ab", "abc"]),
        ('start: /a.c/s "/"', ["a\nc/"], ["ac/"]),
        (r"start: /a\/b{2}/", ["a/bb"], ["a/b"]),
        ('start: ["-"] SIGNED_INT{,2}\n%import common (SIGNED_INT, WS)', ["-", "", "-12+3"], ["--"]),
        ("start: number\n%import common.NUMBER -> number", ["1", ".5e-3"], ["e", "1.2.3"]),
        ('?start: a | b\na.2: "x"\nb: a "y"', ["x", "xy"], ["y"]),
        ('start: (a | "b")* "^$"\na: "[" "]"', ["^$", "[]b^$"], ["[b^$"]),
    ],
)
def test_what_lark_has_is_read(source: str, texts: list[str], others: list[str]) -> None:
    expression = regex_of_lark(source)
    assert all(re.fullmatch(expression, text) for text in texts)
    assert not any(re.fullmatch(expression, text) for text in others)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ('start: "(" start ")"', "'start' holds itself, and never ends"),
        ('start: a "!"\na: b\nb: "x" a', "'a' holds itself, and never ends"),
        ("start: other", "there is no rule 'other'"),
        ('first: "a"', "there is no rule 'start'"),
        ('start: "a" & "b"', "&"),
        ('start: %json {"type": "object"}', "%json"),
        ('start: "a"\n%ignore " "', "%ignore"),
        ("start: <|end|>", "<|end|>"),
        ('start[lazy]: "a"', "options of a rule"),
        ("start: OCTAL\n%import common.OCTAL", "common.OCTAL"),
        ("start: x\n%import .mine.x", "only terminals"),
        ('start: "a".."bc"', "a range"),
        ('start: ("a"', "a group without an end"),
        ('start: "a" )', ")"),
        ("start: /a/l", "the flag 'l'"),
        ("start: /[a/", "unclosed character class"),
        ("start: /(?=a)a/", "look-ahead"),
        ("start: a30\na0: /x/\n" + "\n".join(f"a{n + 1}: a{n} a{n}" for n in range(30)), "more than 8192"),
        ('start: "a"' + " " * 20_000, "more than 16384"),
        ("start: " + "(" * 9_000, "too deep"),
        ("start: a0\n" + "\n".join(f"a{n}: a{n + 1}" for n in range(1000)), "too deep"),
    ],
)
def test_what_cannot_be_one_expression_is_refused_with_what_is_in_the_way(source: str, told: str) -> None:
    with pytest.raises(GrammarError, match=re.escape(told)):
        regex_of_lark(source)


VALUES: Final = """
start: object
value: object | list | STRING | NUMBER | "true" | "false" | "null"
object: "{" [member ("," member)*] "}"
member: STRING ":" value
list: "[" [value ("," value)*] "]"
STRING: /"[^"\\\\]*"/
NUMBER: /-?[0-9]+/
"""
"""Like JSON, and nested without end."""


@pytest.mark.parametrize(
    ("source", "texts", "others"),
    [
        ('start: "(" start? ")"', ["()", "((()))", "(" * 20 + ")" * 20], ["", "(", "(()", "())"]),
        ('start: a\na: b\nb: "x" a | "y"', ["y", "xxxxy"], ["x", "yx"]),
        ('start: sum\nsum: sum "+" N | N\nN: /[0-9]/', ["1", "1+2+3"], ["+1", "1+"]),
        ('start: word*\nword: "a" | "[" word* "]"', ["", "a[a[]]a"], ["[", "a]"]),
        (VALUES, ["{}", '{"a":[1,{"b":"c"}],"d":null}'], ["[]", '{"a"}', '{"a":[1,}']),
    ],
)
def test_rules_that_hold_themselves_nest_as_deep_as_there_is_room(
    source: str, texts: list[str], others: list[str]
) -> None:
    expression = regex_of_lark(source)
    assert len(expression) <= MOST
    assert all(re.fullmatch(expression, text) for text in texts)
    assert not any(re.fullmatch(expression, text) for text in others)


def test_what_nests_deeper_is_not_among_the_texts() -> None:
    expression = regex_of_lark('start: "(" start? ")"')
    assert not re.fullmatch(expression, "(" * (DEEPEST + 1) + ")" * (DEEPEST + 1))


def test_an_argument_keeps_to_a_grammar_that_nests() -> None:
    name = "hermes"
    grammar = calling_grammar(Wanted(FORMATS[name]), [patching(regex_of_lark(VALUES))], {})
    for text, fits in (('{"a":[1,{"b":"c"}]}', True), ('{"a":[1,{"b":"c"}}', False)):
        call = JSON_FORMATS[name].format(json.dumps({"input": text}, ensure_ascii=False))
        assert Bound(grammar).takes(call) == fits, call


def test_many_rules_that_hold_themselves_are_refused() -> None:
    rules = "\n".join(f"a{n}: a{n + 1} | b" for n in range(900))
    with pytest.raises(GrammarError, match=r"too deep|more than"):
        regex_of_lark(f'start: a0 | "x" start\n{rules}\na900: "z"\nb: "y"')


@pytest.mark.parametrize("source", ["(a", "a)|(?:b", r"(a)\1", "a" * 40_000])
def test_an_expression_that_is_none_is_refused(source: str) -> None:
    with pytest.raises(GrammarError):
        whole_regex(source)


JSON_FORMATS: Final = {
    "hermes": '<tool_call>\n{{"name": "patch", "arguments": {}}}\n</tool_call>',
    "llama3_json": '{{"name": "patch", "parameters": {}}}',
    "mistral": "[TOOL_CALLS]patch[ARGS]{}",
    "deepseek_v31": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>patch<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",  # noqa: E501, RUF001
}


BARE_FORMATS: Final = {
    "qwen3_coder": "<tool_call>\n<function=patch>\n<parameter=input>\n{}\n</parameter>\n</function>\n</tool_call>",
    "glm": "<tool_call>patch\n<arg_key>input</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>",
}


def patching(expression: str) -> ToolSpec:
    shape = {"type": "string", "pattern": anchored(expression)}
    parameters = {"type": "object", "properties": {"input": shape}, "required": ["input"]}
    return ToolSpec("patch", parameters={**parameters, "additionalProperties": False}, strict=True)


@pytest.mark.parametrize("name", JSON_FORMATS)
@pytest.mark.parametrize("lark", [True, False])
def test_an_argument_keeps_to_it(name: str, lark: bool) -> None:
    expression = regex_of_lark(PATCH) if lark else whole_regex(r"[a-z/ ]+\n")
    grammar = calling_grammar(Wanted(FORMATS[name]), [patching(expression)], {})
    good, bad = (GOOD, BAD) if lark else (("one\n", "a/ b\n"), ("One\n", "one"))
    for text, fits in [*((text, True) for text in good), *((text, False) for text in bad)]:
        call = JSON_FORMATS[name].format(json.dumps({"input": text}, ensure_ascii=False))
        assert Bound(grammar).takes(call) == fits, call


@pytest.mark.parametrize("name", BARE_FORMATS)
@pytest.mark.parametrize("lark", [True, False])
@pytest.mark.parametrize("among_text", [True, False])
def test_so_does_one_that_is_bare_text_between_tags(name: str, lark: bool, among_text: bool) -> None:
    expression = regex_of_lark(PATCH) if lark else whole_regex(r"[a-z/ ]+")
    tool = patching(expression)
    grammar = calling_grammar(Wanted(FORMATS[name]), [tool], {}, required=not among_text)
    good, bad = (GOOD, BAD) if lark else (("one", "a/ b"), ("One", ""))
    for text, fits in [*((text, True) for text in good), *((text, False) for text in bad)]:
        call = BARE_FORMATS[name].format(text)
        assert Bound(grammar).takes(call) == fits, call
        if fits:
            parser = OutputParser((), Wanted(FORMATS[name], schemas={"patch": tool.parameters}))
            parser.feed(call)
            parser.finish()
            assert [json.loads(one.arguments) for one in parser.calls] == [{"input": text}]


@pytest.mark.parametrize(("name", "mark"), [("qwen3_coder", "</parameter>"), ("glm", "</arg_value>")])
def test_so_does_one_that_a_token_ends(name: str, mark: str) -> None:
    """It may have any number of lines: only the token ends it."""
    grammar = calling_grammar(Wanted(FORMATS[name]), [patching(r"(?:[a-z<]+\n?)+")], {mark: 3})
    for text, fits in (("one\ntwo\n<", True), ("one", True), ("One", False), ("", False)):
        assert Bound(grammar).takes(BARE_FORMATS[name].format(text).replace(mark, "\3")) == fits, text


@pytest.mark.parametrize("source", ["a", "(a|b)c", r"\)[)(]*", "[])]", "", r"a)|(?:b"])
def test_what_was_anchored_is_known_again_unless_its_end_is_another_s(source: str) -> None:
    assert unanchored(anchored(source)) == (None if source.startswith("a)") else source)


@pytest.mark.parametrize("pattern", ["a", "^a$", "^(?:a", None, 5])
def test_what_was_not_anchored_is_left_alone(pattern: object) -> None:
    assert unanchored(pattern) is None


def test_what_ends_an_expression_in_a_grammar_is_escaped_once() -> None:
    assert as_terminal("a/b\\/\n") == r"/a\/b\/\n/"
