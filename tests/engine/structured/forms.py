"""Forms of answers, what keeps to them, and what is none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

import jsonschema
from hypothesis import strategies as st

from schemas.structured import Structured

PERSON: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "long one"]}, "minItems": 1, "maxItems": 4},
        "more": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/point"}]},
    },
    "required": ["name", "age", "tags", "more"],
    "additionalProperties": False,
    "$defs": {
        "point": {
            "type": "object",
            "properties": {"x": {"type": "number"}, "y": {"type": "boolean"}},
            "required": ["x", "y"],
            "additionalProperties": False,
        }
    },
}
TAGGED: Final[dict[str, Any]] = {
    "format": {
        "type": "tag",
        "begin": "<call>",
        "content": {"type": "json_schema", "json_schema": PERSON["$defs"]["point"]},
        "end": "</call>",
    }
}


def is_json_of(schema: Any) -> Callable[[str], bool]:
    """Make a check of a text: JSON that a schema allows."""

    def check(text: str) -> bool:
        jsonschema.validate(json.loads(text), schema)
        return True

    return check


def matches(pattern: str) -> Callable[[str], bool]:
    """Make a check of a text: all of it matches."""
    return lambda text: re.fullmatch(pattern, text, re.DOTALL) is not None


def json_of(schema: Any, **more: Any) -> Structured:
    return Structured(kind="json_schema", text=json.dumps(schema), **more)


GOOD: Final[dict[str, tuple[Structured, Callable[[str], bool]]]] = {
    "json_schema": (json_of(PERSON), is_json_of(PERSON)),
    "json_object": (Structured(kind="json_object"), is_json_of({"type": "object"})),
    "regex": (Structured(kind="regex", text="[a-c]{3,8}-[0-9]{1,4}"), matches("[a-c]{3,8}-[0-9]{1,4}")),
    "choice": (Structured(kind="choice", choices=("yes", "yes, but no", "o")), matches("yes|yes, but no|o")),
    "lark": (
        Structured(kind="grammar", text='start: "x" num ("+" num){0,3} ";"\nnum: /[0-9]{1,3}/'),
        matches(r"x[0-9]{1,3}(\+[0-9]{1,3}){0,3};"),
    ),
    "gbnf": (
        Structured(kind="grammar", text='root ::= "x" num ";"\nnum ::= [0-9] [0-9]?'),
        matches("x[0-9]{1,2};"),
    ),
}
"""Forms with an end, and what checks them."""


def regex(pattern: str) -> Structured:
    return Structured(kind="regex", text=pattern)


def lark(source: str) -> Structured:
    return Structured(kind="grammar", text=source)


def tagged(format_: dict[str, Any]) -> Structured:
    return Structured(kind="structural_tag", text=json.dumps({"format": format_}))


def tag(content: dict[str, Any], begin: str = "<a>", end: str = "</a>") -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


PATTERNS: Final = {"type": "string", "pattern": '^[^"]* said "x$'}
LISTED: Final = {
    "type": "object",
    "properties": {"a": {"type": "string", "pattern": "[0-9]+77-x$"}, "b": {"type": "array", "items": PATTERNS}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
ANY: Final = {"type": "any_text"}
FORMS: Final[dict[str, tuple[Structured, str, Callable[[str], bool]]]] = {
    name: (structured, short, check)
    for name, structured, short, check in (
        ("letters", regex("[a-z ]+end"), "xend", matches("[a-z ]+end")),
        ("anything", regex("(?s:.*)STOP"), "STOP", matches(".*STOP")),
        ("two ends", regex(r"[a-z. ]+(end|fin)\."), "xfin.", matches(r"[a-z. ]+(end|fin)\.")),
        ("classes", regex("[a-z]+[pq][rs][vw]"), "xprv", matches("[a-z]+[pq][rs][vw]")),
        ("digits", regex("[0-9]+7{3}"), "0777", matches("[0-9]+777")),
        ("a count", regex("([a-z]+ ){3,}finally done"), "x x x finally done", matches("([a-z]+ )+finally done")),
        ("not ascii", regex("[^;]+ éné"), "x éné", matches("[^;]+ éné")),
        ("choice", Structured(kind="choice", choices=("aa", "aab", "aabbc")), "aa", matches("aa|aab|aabbc")),
        ("one rule", lark('start: item+ "end"\nitem: /[a-z ]/'), "xend", matches("[a-z ]+end")),
        ("nested", lark('start: "x" in\nin: /[a-z!]+!!/ | "(" in ")" in'), "xx!!", matches(r"x[a-z!()]+!!")),
        ("lazy", lark('start: w ("," w)* "\\n--"\nw[lazy]: /(.|\\n)*END/'), "END\n--", matches(".*END\n--")),
        ("gbnf", lark('root ::= [a-z ]+ "the end" "."'), "xthe end.", matches(r"[a-z ]+the end\.")),
        ("greedy", lark('start: item+ "end"\nitem: /[a-z ]+/'), "xend", matches("[a-z ]+end")),
        ("greedy list", lark('start: kv ("," kv)* ";"\nkv: /[a-z]+/ "=" /[^,]+/'), "x=x;", matches("[a-z]+=.+;")),
        ("greedy at a place", lark('start: "a: " /(.|\\n)*/ "END"'), "a: END", matches("a: .*END")),
        ("greedy before json", lark('start: /(.|\\n)*/ "X:" js\njs: %json {"const": 7}'), "X:7", matches(".*X:7")),
        ("greedy within", lark('start: "(" start ")" | A "end"\nA: /[a-z]+/'), "xend", matches(r"\(*[a-z]+end\)*")),
        ("greedy gbnf", lark('root ::= item+ "end"\nitem ::= [a-z ]+'), "xend", matches("[a-z ]+end")),
        ("json", json_of(LISTED), '{"a":"077-x","b":[]}', is_json_of(LISTED)),
        ("a tag", tagged(tag(ANY)), "<a></a>", matches("<a>.*</a>")),
        ("pattern", tagged(tag({"type": "regex", "pattern": "[a-z<>/]+end"})), "<a>xend</a>", matches("<a>.+end</a>")),
        (
            "series",
            tagged({"type": "sequence", "elements": [ANY, {"type": "const_string", "value": "THE END"}]}),
            "THE END",
            matches(".*THE END"),
        ),
        (
            "triggered",
            tagged(
                {
                    "type": "triggered_tags",
                    "triggers": ["<a"],
                    "tags": [tag(ANY)],
                    "at_least_one": True,
                    "stop_after_first": True,
                }
            ),
            "<a></a>",
            matches(".*<a>.*</a>"),
        ),
        (
            "separated",
            tagged(
                {
                    "type": "tags_with_separator",
                    "separator": ", ",
                    "tags": [tag({"type": "regex", "pattern": "[^!]*x"}, "[", "]")],
                    "at_least_one": True,
                }
            ),
            "[x]",
            matches(r"\[[^!]*x\]"),
        ),
    )
}
"""Forms, a document of each that is as short as one can be, and what checks them."""

BAD: Final[dict[str, tuple[Structured, str]]] = {
    "regex": (Structured(kind="regex", text="[a-"), "unclosed character class"),
    "lark": (Structured(kind="grammar", text="start: x"), 'unknown name: "x"'),
    "type": (json_of({"type": "strin"}), "strin"),
    "nothing fits": (json_of({"type": "string", "minLength": 5, "maxLength": 2}), ""),
    "lookahead": (json_of({"type": "string", "pattern": "(?=a)b"}), "look-around"),
    "reference": (json_of({"$ref": "#/$defs/none"}), ""),
    "tag": (Structured(kind="structural_tag", text='{"format": {"type": "what"}}'), "no format of type 'what'"),
    "trigger": (
        Structured(
            kind="structural_tag",
            text='{"structures": [{"begin": "<a>", "schema": {}, "end": "</a>"}], "triggers": ["<b"]}',
        ),
        "none of the triggers",
    ),
}
"""What is no grammar, and what is said of it."""

_NAMES = st.sampled_from(["a", "b", "name", "käse", 'q"t', "x y"])
_FEW = st.integers(0, 9)
_LEAVES = st.one_of(
    st.builds(
        lambda a, b: {"type": "integer", "minimum": a, "maximum": a + b}, st.integers(-99, 99), st.integers(0, 9)
    ),
    st.builds(
        lambda a, b: {"type": "string", "minLength": a, "maxLength": a + b}, st.integers(0, 4), st.integers(0, 9)
    ),
    st.just({"type": "string", "pattern": "^[a-f]{2,4}[0-9]$"}),
    st.lists(st.sampled_from(["one", "two", 3, None, True]), min_size=1, max_size=3, unique=True).map(
        lambda values: {"enum": values}
    ),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "number"}, {"type": "string"}, {"const": "käse"}]),
)


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def make(properties: dict[str, Any], every: bool) -> dict[str, Any]:
        names = sorted(properties)
        return {
            "type": "object",
            "properties": properties,
            "required": names if every else names[::2],
            "additionalProperties": False,
        }

    return st.builds(make, st.dictionaries(_NAMES, inner, max_size=3), st.booleans())


schemas = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        _objects(inner),
        st.builds(
            lambda item, a, b: {"type": "array", "items": item, "minItems": a, "maxItems": a + b},
            inner,
            st.integers(0, 2),
            st.integers(0, 2),
        ),
        st.lists(inner, min_size=1, max_size=2).map(lambda some: {"anyOf": some}),
    ),
    max_leaves=6,
)
"""JSON schemas of a few levels."""
