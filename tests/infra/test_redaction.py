"""Texts go, shape stays."""

from __future__ import annotations

import base64
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.redaction import Redactor
from schemas import codec
from schemas.runs import Event
from tests.schemas.examples import EXAMPLES
from tests.schemas.test_codec import events

REDACTOR = Redactor(b"secret")
SECRET = "Zürich99"
SECRET_TOKEN = 987_654
SECRET_PIECE = base64.b64encode(SECRET.encode()).decode()


@given(st.text())
def test_a_text_keeps_its_length_and_its_spaces(text: str) -> None:
    redacted = REDACTOR.text(text)
    assert len(redacted) == len(text)
    assert [c.isspace() for c in redacted] == [c.isspace() for c in text]


@given(st.text(), st.text())
def test_equal_texts_stay_equal_and_another_secret_gives_others(a: str, b: str) -> None:
    assert REDACTOR.text(a) == REDACTOR.text(a)
    if len(re.findall(r"[a-z]", a)) >= 8 and a != b and len(a) == len(b) and a.isalpha() and b.isalpha():
        assert REDACTOR.text(a) != REDACTOR.text(b)
    if len(re.findall(r"[a-z]", a)) >= 8 and not a.startswith(("{", "[")):
        assert Redactor(b"other").text(a) != REDACTOR.text(a)


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def shape(value: Any) -> Any:
    """A value with its texts and numbers taken for their kind."""
    match value:
        case dict():
            return {key: shape(below) for key, below in value.items()}
        case list():
            return [shape(below) for below in value]
        case bool() | None:
            return value
        case str():
            return "text"
        case _:
            return "number"


@given(st.dictionaries(st.text(max_size=5), values, max_size=3))
def test_json_in_a_text_keeps_its_layout_and_its_keys(value: dict[str, Any]) -> None:
    text = msgspec.json.format(msgspec.json.encode(value).decode(), indent=2)
    redacted = REDACTOR.text(text)
    assert len(redacted) == len(text)
    assert shape(msgspec.json.decode(redacted)) == shape(msgspec.json.decode(text))


@pytest.mark.parametrize("kind", codec.EVENT_TYPES.values(), ids=codec.EVENT_TYPES.keys())
@settings(max_examples=20)
@given(data=st.data())
def test_a_redacted_event_is_still_one_of_its_type(kind: type, data: st.DataObject) -> None:
    event: Any = data.draw(events(kind))
    redacted = codec.decode(REDACTOR.event(codec.encode(event)), Event)
    assert type(redacted) is kind


_SAID = {
    *("text", "content", "message", "instructions", "reason", "topic", "description", "prefix"),
    *("choices", "whitespace", "after"),
}


def planted(value: Any, key: str = "") -> Any:
    """Put the secret wherever something may have been said."""
    match value:
        case dict():
            return {name: planted(below, name) for name, below in value.items()}
        case list():
            return [planted(below, key) for below in value]
        case str() if key in _SAID:
            return f"I live in {SECRET}"
        case int() if key in {"token_ids", "prompt_token_ids", "prompt", "trace_decode_token_ids"}:
            return SECRET_TOKEN
        case str() if key in {"arguments", "piece"}:
            return SECRET_PIECE if key == "piece" else f'{{"where": "{SECRET}", "list": ["{SECRET}", 99]}}'
        case _:
            return value


@pytest.mark.parametrize("event", EXAMPLES, ids=codec.tag)
def test_nothing_that_was_said_is_left(event: Event) -> None:
    said = planted(msgspec.json.decode(codec.encode(event)))
    redacted = REDACTOR.event(msgspec.json.encode(said)).decode()
    assert SECRET not in redacted
    assert SECRET_PIECE not in redacted
    assert str(SECRET_TOKEN) not in redacted
    assert "live" not in redacted
    assert codec.tag(codec.decode(redacted.encode(), Event)) == codec.tag(event)
