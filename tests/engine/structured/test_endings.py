"""What grammars can end with, read off their sources."""

from __future__ import annotations

import json

import pytest

from engine.structured.endings import Endings, endings_of
from engine.structured.expressions import Expression, rests, rests_within
from engine.structured.lark import read_lark
from engine.structured.regexes import Unreadable, read_regex
from tests.engine.structured.conftest import CALL
from tests.engine.structured.test_constraint import TOKENIZER, guidance


def ends(expression: Expression, **more: Expression) -> list[str]:
    return ["".join(map(str, rest)) for rest in rests({"start": expression, **more}, "start")]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("end", ["d", "nd", "end"]),
        ("[^a]b?", ["0", "b"]),
        ("(ab|c){2}d", ["d", "cd", "bd", "abd", "bcd", "ccd", "abcd"]),
        (r"[\]x-z]\d\x41\u{42}\.", [".", "B.", "AB.", "0AB.", "]0AB."]),
        (r"^(?i)\bq\S\pL$", ["a", "aa", "qaa"]),
        (r"(?P<n>[-a])(?:b|)\W", [" ", "a ", "b "]),
        (r"[ä-ü\s]\D", ["a", " a"]),
        ("[ж-щ]", ["ж"]),
        (r"\p{Lu}[\w&&x]?", None),
        ("[[:alpha:]]", None),
        (r"\p{Greek}", None),
        ("(?=a)b", None),
        ("(a", None),
        ("[a", None),
        ("a)", None),
    ],
)
def test_a_regular_expression_ends_with_what_is_left_at_any_place_in_it(pattern: str, found: list[str] | None) -> None:
    if found is None:
        with pytest.raises(Unreadable):
            read_regex(pattern)
    else:
        assert sorted(ends(read_regex(pattern))) == sorted(found)


LARK = r"""
%llguidance {}
// a remark
start: "a" (one | two)* [three] <[7]> four  # another
one: /x\/[0-9]/i "y"{2,3}
   | "z"i~2..3
?two[suffix="!"]: "0".."9" | @other
%ignore /[ \t]+/
three: %json { "type": "string", "pattern": "q$" } ~"n" %regex {"substring_chars": "ab"}
FOUR: /[a-f]+/ & ~/b/
four: FOUR <call> ";"
"""


def test_a_grammar_is_read_with_its_rules_and_schemas() -> None:
    rules, schemas = read_lark(LARK, {"<call>": 300})
    assert schemas == [{"type": "string", "pattern": "q$"}]
    assert set(rules) == {"start", "one", "two", "three", "FOUR", "four"}
    found = rests(rules, "start")
    assert (";",) in found
    assert ("y", 7, "a", 300, ";") in found
    assert ("a", 7, "a", 300, ";") in found
    assert ("!", 7, "a", 300, ";") in found
    assert ("/", "0", "y", "y") in rests_within(rules)


@pytest.mark.parametrize(
    "source", ['start: "a', "start: ?", "start: ( x", "start::x: y", "%import common.INT", "start: %json {"]
)
def test_a_grammar_with_something_odd_in_it_is_left_alone(source: str) -> None:
    with pytest.raises(Unreadable):
        read_lark(source, {})
    assert endings_of(source, guidance()._tokenizer, {}) == Endings()


def test_rules_that_stand_in_themselves_end_as_well_and_those_without_an_end_do_not() -> None:
    rules, _ = read_lark('start: "(" start ")" | "[" endless "]" | "x"\nendless: "y" endless', {})
    found = ["".join(map(str, rest)) for rest in rests(rules, "start")]
    assert {"x", ")", "x)", "(x)", "))", "(x))"} <= set(found)
    assert not any("y" in rest or "[" in rest for rest in found)


def test_nothing_that_grows_without_bound_is_made_of_a_small_source() -> None:
    levels = [f"level{number}: " + f"level{number + 1} " * 30 for number in range(6)]
    rules, _ = read_lark("\n".join(["start: level0", *levels, 'level6: "x"{500}']), {})
    assert len(rests(rules, "start")) <= 400
    assert len(ends(read_regex("((a{900}){900}){900}b"))) <= 400


def test_endings_are_spelt_in_tokens_and_texts_of_json_as_json_spells_them() -> None:
    call = TOKENIZER.token_to_id(CALL)
    found = endings_of(f'start: "a" <[{call}]> "the quick"', guidance()._tokenizer, {CALL: call})
    assert (call, *TOKENIZER.encode("the quick").ids) in found.whole
    schema = {"properties": {"a": {"pattern": 'said "x$'}}, "patternProperties": {"^yz$": {}}}
    found = endings_of(json.dumps({"grammars": [{"json_schema": schema}]}), guidance()._tokenizer, {})
    texts = {TOKENIZER.decode(list(way)) for way in found.parts}
    assert not found.whole
    assert {"yz", '\\"x', 'said \\"x'} <= texts
