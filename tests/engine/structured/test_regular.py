"""Grammars as regular expressions, and arguments of calls that keep to them."""

from __future__ import annotations

import json
import re
from typing import Final

import pytest

from engine.structured.grammar import GrammarError
from engine.structured.regular import anchored, regex_of_lark, whole_regex
from engine.text.formats import FORMATS
from engine.text.grammars import calling_grammar
from engine.text.parsers import Wanted
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
        ('start: "(" start? ")"', "'start' holds itself"),
        ('start: a\na: b\nb: "x" a | "y"', "'a' holds itself"),
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


@pytest.mark.parametrize("name", JSON_FORMATS)
@pytest.mark.parametrize("lark", [True, False])
def test_an_argument_keeps_to_it(name: str, lark: bool) -> None:
    expression = regex_of_lark(PATCH) if lark else whole_regex(r"[a-z ]+\n")
    shape = {"type": "string", "pattern": anchored(expression)}
    parameters = {"type": "object", "properties": {"input": shape}, "required": ["input"]}
    tool = ToolSpec("patch", parameters={**parameters, "additionalProperties": False}, strict=True)
    grammar = calling_grammar(Wanted(FORMATS[name]), [tool], {})
    good, bad = (GOOD, BAD) if lark else (("one\n", "a b\n"), ("One\n", "one"))
    for text, fits in [*((text, True) for text in good), *((text, False) for text in bad)]:
        call = JSON_FORMATS[name].format(json.dumps({"input": text}, ensure_ascii=False))
        assert Bound(grammar).takes(call) == fits, call
