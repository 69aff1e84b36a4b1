"""Half a JSON text is what it says for certain."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.partial import partial_value

values = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("{", {}),
        ('{"na', {}),
        ('{"name"', {}),
        ('{"name": "An', {"name": "An"}),
        ('{"name": "An\\', {"name": "An"}),
        ('{"name": "Ann", "age": 4', {"name": "Ann"}),
        ('{"name": "Ann", "age": 42, ', {"name": "Ann", "age": 42}),
        ('{"ok": true', {"ok": True}),
        ('{"ok": tr', {}),
        ('{"a": {"b": [1, 2', {"a": {"b": [1]}}),
        ('{"a": {"b": [1, 2]', {"a": {"b": [1, 2]}}),
        ('["a{", "b', ["a{", "b"]),
        ('{"name": "Ann"}', {"name": "Ann"}),
        ("no JSON", None),
        ('```json\n{"name": "An', {"name": "An"}),
        ('```json\n{"name": "Ann"}\n```', {"name": "Ann"}),
        ("12", None),
        ('{"name": "An\\u00', {"name": "An"}),
        ('{"name": "An\\ud83d\\ude0', {"name": "An"}),
    ],
)
def test_what_is_certain_is_kept_and_no_more(text: str, value: Any) -> None:
    assert partial_value(text) == value


@given(values)
def test_an_object_only_grows(value: Any) -> None:
    text = json.dumps({"value": value})
    assert partial_value(text) == {"value": value}
    for end in range(1, len(text)):
        found = partial_value(text[:end])
        assert isinstance(found, dict)
        assert _is_part(found, {"value": value}), (text[:end], found)


@given(st.text(min_size=1, max_size=6))
def test_a_text_that_was_seen_does_not_vanish_again(word: str) -> None:
    text, seen = json.dumps({"word": word}), ""
    for end in range(len('{"word": "') + 1, len(text)):
        found = partial_value(text[:end])["word"]
        assert found.startswith(seen)
        assert word.startswith(found)
        seen = found


def _is_part(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and _is_part(part[key], whole[key]) for key in part)
    if isinstance(part, list):
        return isinstance(whole, list) and all(_is_part(one, other) for one, other in zip(part, whole, strict=False))
    if isinstance(part, str):
        return isinstance(whole, str)
    return bool(part == whole)
