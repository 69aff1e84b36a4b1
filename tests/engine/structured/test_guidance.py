"""What llguidance makes of each kind of grammar, and tags in free text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.structured import closing
from engine.structured.checks import check
from engine.structured.grammar import GrammarError, Vocabulary
from engine.structured.guidance import Guidance
from engine.structured.masks import rows_for
from schemas.structured import Structured
from tests.engine.structured.conftest import CALL, SIZE
from tests.engine.structured.forms import BAD, GOOD, PERSON, TAGGED, json_of
from tests.engine.structured.test_constraint import ENDS, TOKENIZER, guidance

POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
TRIGGERED = {"structures": [{"begin": "<f=a>", "schema": POINT, "end": "</f>"}], "triggers": ["<f="]}


def keeps_to(structured: Structured, text: str) -> bool:
    """Whether a text is an answer of a form."""
    matcher = guidance().compile(structured).matcher()
    return all(matcher.accept(token) for token in TOKENIZER.encode(text).ids) and matcher.is_accepting()


def tags(format_: Any) -> Structured:
    return Structured(kind="structural_tag", text=json.dumps(format_))


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_grammar_is_told_by_what_is_wrong_with_it(name: str) -> None:
    structured, problem = BAD[name]
    check(structured)
    with pytest.raises(GrammarError) as error:
        guidance().compile(structured)
    assert problem in str(error.value)
    assert 0 < len(str(error.value)) <= 501


@pytest.mark.parametrize(
    ("structured", "text", "fits"),
    [
        (json_of(POINT), '{"x": 1}', True),
        (json_of(POINT), '{"x": 1, "y": 2}', False),
        (json_of(POINT), '{"x": "1"}', False),
        (json_of(POINT, any_whitespace=False), '{"x": 1}', False),
        (json_of(POINT, whitespace="~?"), '{"x"~:1~}', True),
        (json_of(True), "[1, null]", True),
        (Structured(kind="json_object"), "{}", True),
        (Structured(kind="json_object"), "[]", False),
        (Structured(kind="choice", choices=("a.c", "b")), "a.c", True),
        (Structured(kind="choice", choices=("a.c", "b")), "abc", False),
        (Structured(kind="choice", choices=('say "hi"\n', "käse")), 'say "hi"\n', True),
        (Structured(kind="choice", choices=('say "hi"\n', "käse")), "käse", True),
    ],
)
def test_an_answer_is_of_a_form_or_is_not(structured: Structured, text: str, fits: bool) -> None:
    assert keeps_to(structured, text) == fits


@pytest.mark.parametrize(
    ("format_", "text", "fits"),
    [
        (TRIGGERED, "no tags at all", True),
        (TRIGGERED, 'so <f=a>{"x": 1}</f> and <f=a>{"x":2}</f> more', True),
        (TRIGGERED, 'so <f=a>{"x": true}</f>', False),
        (TRIGGERED, "so <f=b>", False),
        (TRIGGERED, 'so <f=a>{"x": 1}', False),
        ({"format": {"type": "const_string", "value": 'a"b'}}, 'a"b', True),
        ({"format": {"type": "regex", "pattern": "[0-9]/a+"}}, "7/aa", True),
        ({"format": {"type": "any_text"}}, "any\nthing", True),
        (
            {
                "format": {
                    "type": "sequence",
                    "elements": [{"type": "const_string", "value": "x"}, {"type": "any_text"}],
                }
            },
            "xyz",
            True,
        ),
        (
            {"format": {"type": "or", "elements": [{"type": "const_string", "value": v} for v in ("x", "y")]}},
            "xy",
            False,
        ),
        (
            {"format": {"type": "tag", "begin": "<t>", "content": {"type": "any_text"}, "end": "</t>"}},
            "<t>some < text</t>",
            True,
        ),
        (
            {
                "format": {
                    "type": "triggered_tags",
                    "triggers": ["<"],
                    "tags": [{"begin": "<t>", "content": {"type": "json_schema", "json_schema": POINT}, "end": "</t>"}],
                    "at_least_one": True,
                    "stop_after_first": True,
                }
            },
            'well <t>{"x":1}</t>',
            True,
        ),
        (
            {
                "format": {
                    "type": "triggered_tags",
                    "triggers": ["<"],
                    "tags": [{"begin": "<t>", "content": {"type": "any_text"}, "end": "</t>"}],
                    "at_least_one": True,
                    "stop_after_first": True,
                }
            },
            "well",
            False,
        ),
        (
            {
                "format": {
                    "type": "sequence",
                    "elements": [
                        {"type": "any_text"},
                        {
                            "type": "tag",
                            "begin": "<t>",
                            "content": {"type": "regex", "pattern": "[a-z<>/]*"},
                            "end": "</t>",
                        },
                        {"type": "const_string", "value": "!"},
                    ],
                }
            },
            "a < b <t>x</y></t>!",
            True,
        ),
        (
            {
                "format": {
                    "type": "tags_with_separator",
                    "separator": ", ",
                    "tags": [{"begin": "[", "content": {"type": "regex", "pattern": "a"}, "end": "]"}],
                    "at_least_one": True,
                }
            },
            "[a], [a]",
            True,
        ),
    ],
)
def test_tags_stand_in_free_text(format_: Any, text: str, fits: bool) -> None:
    assert keeps_to(tags(format_), text) == fits


def test_a_token_that_stands_for_a_tag_is_that_tag() -> None:
    assert TOKENIZER.encode(CALL).ids == [TOKENIZER.token_to_id(CALL)]
    assert keeps_to(tags(TAGGED), '<call>{"x": 1, "y": true}</call>')


@pytest.mark.parametrize("name", GOOD)
def test_no_token_ends_an_answer_by_the_grammar_alone_and_none_is_beyond_the_vocabulary(name: str) -> None:
    matcher = guidance().compile(GOOD[name][0]).matcher()
    row = rows_for(1, SIZE)[0]
    row[:] = 255
    matcher.mask(row)
    found = [token for token in range(len(row) * 8) if row[token >> 3] >> (token & 7) & 1]
    assert found
    assert not set(found) & set(ENDS)
    assert max(found) < TOKENIZER.get_vocab_size()


def test_a_copy_goes_its_own_way() -> None:
    matcher = guidance().compile(json_of(PERSON)).matcher()
    (first,) = TOKENIZER.encode('{"').ids
    copy = matcher.copy()
    assert copy.accept(first)
    assert matcher.accept(first)
    assert not copy.accept(ENDS[0])
    assert not matcher.is_accepting()


def test_looking_for_an_end_has_a_bound_and_nothing_is_promised_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    long = json_of({"type": "array", "items": {"type": "string", "minLength": 3}, "minItems": 50})
    found = guidance().compile(long).shortest
    assert found is not None
    monkeypatch.setattr(closing, "_STEPS_AT_FIRST", 20)
    assert guidance().compile(long).shortest is None


def test_a_tokenizer_that_no_grammar_can_be_followed_in_is_told_of() -> None:
    with pytest.raises(GrammarError, match="this model's tokenizer cannot be used with grammars"):
        Guidance(Vocabulary('{"model": {"type": "WordLevel"}}', SIZE, ENDS))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "format": "email"},
        {"type": "string", "format": "date-time"},
        {"type": "string", "format": "uuid"},
        {"type": "string", "minLength": 30},
        {"type": "string", "pattern": "^[a-f0-9]{32}$"},
        {"type": "array", "items": {"type": "string", "minLength": 3}, "minItems": 50},
    ],
)
def test_a_way_to_the_end_is_found_through_strings_that_ask_for_something(schema: Any) -> None:
    assert guidance().compile(json_of(schema)).shortest is not None
