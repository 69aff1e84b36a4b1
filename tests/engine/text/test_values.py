"""What schemas say of types, however they say it."""

from __future__ import annotations

import pytest

from engine.text.values import types


def test_a_schema_that_refers_to_itself_many_times_is_looked_at_once() -> None:
    root = {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 12 + [{"type": "string"}]}}}
    assert types({"$ref": "#/$defs/a"}, root) == {"string"}


@pytest.mark.parametrize("schema", [{"type": 5}, {"anyOf": 5}, {"enum": 5}, {"$ref": 5}, {"allOf": [5]}])
def test_a_schema_that_is_none_says_nothing(schema: dict[str, object]) -> None:
    assert types(schema, schema) == set()
