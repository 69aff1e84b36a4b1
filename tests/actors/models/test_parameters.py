"""JSON Schemas of tools as each kind of provider takes them, from shapes that real tools have."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from actors.models.parameters import fitted, for_gemini, inlined, is_bindable, nullable, strictly

PYDANTIC: dict[str, Any] = {
    "$defs": {
        "Size": {"enum": ["S", "M"], "title": "Size", "type": "string"},
        "Item": {
            "properties": {"sku": {"minLength": 3, "type": "string"}, "size": {"$ref": "#/$defs/Size"}},
            "required": ["sku"],
            "title": "Item",
            "type": "object",
        },
    },
    "properties": {
        "items": {"items": {"$ref": "#/$defs/Item"}, "minItems": 1, "type": "array"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "description": "For the packer."},
        "count": {"exclusiveMinimum": 0, "type": "integer", "default": 1},
        "kind": {"const": "order", "type": "string"},
    },
    "required": ["items"],
    "title": "Order",
    "type": "object",
}
"""As pydantic writes a model with another one in it."""

ZOD: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "when": {"type": "string", "format": "date"},
        "level": {"type": ["integer", "null"], "enum": [1, 2, None]},
        "target": {"oneOf": [{"type": "string"}, {"type": "number"}]},
        "extra": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "additionalProperties": False,
}
"""As zod writes an object."""

UNION: dict[str, Any] = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"id": {"type": "string"}, "by": {"type": "string"}},
            "required": ["id", "by"],
        },
        {"type": "object", "properties": {"name": {"type": "string"}, "by": {"type": "string"}}, "required": ["by"]},
    ]
}
TREE: dict[str, Any] = {
    "$defs": {
        "Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}, "value": {"type": "integer"}}}
    },
    "$ref": "#/$defs/Node",
}


def parts(schema: Any) -> list[dict[str, Any]]:
    """Every schema inside, names of properties aside."""
    if not isinstance(schema, dict):
        return []
    below = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), schema.get("items")]
    return [schema, *(part for one in below for part in parts(one))]


def test_gemini_gets_its_part_of_openapi_and_reads_the_rest_in_descriptions() -> None:
    schema = for_gemini(PYDANTIC)
    assert "$defs" not in schema
    item = schema["properties"]["items"]["items"]
    assert item["properties"]["size"] == {"enum": ["S", "M"], "title": "Size", "type": "string"}
    assert schema["properties"]["note"]["nullable"] is True
    assert schema["properties"]["note"]["type"] == "string"
    assert schema["properties"]["kind"] == {"type": "string", "enum": ["order"]}
    assert "exclusiveMinimum: 0" in schema["properties"]["count"]["description"]
    assert "exclusiveMinimum" not in schema["properties"]["count"]


@pytest.mark.parametrize("schema", [PYDANTIC, ZOD, UNION, TREE], ids=["pydantic", "zod", "union", "tree"])
def test_nothing_that_gemini_refuses_is_left(schema: dict[str, Any]) -> None:
    refused = {
        "$ref",
        "$defs",
        "$schema",
        "additionalProperties",
        "oneOf",
        "allOf",
        "const",
        "exclusiveMinimum",
        "default",
    }
    for part in parts(fitted(schema, "gemini", strict=False)):
        assert not refused & part.keys()
        assert isinstance(part.get("type", ""), str)
        assert all(isinstance(value, str) for value in part.get("enum", ()))
        assert part.get("format") in {None, "date-time", "enum"}
        assert part.get("type") != "array" or "items" in part
        assert set(part.get("required", ())) <= part.get("properties", {}).keys()


def test_openai_binds_when_everything_is_required_and_what_was_not_may_be_null() -> None:
    schema = fitted(PYDANTIC, "openai", strict=True)
    for part in parts(schema):
        if "properties" in part:
            assert part["additionalProperties"] is False
            assert set(part["required"]) == set(part["properties"])
        assert "default" not in part
    jsonschema.Draft202012Validator.check_schema(schema)
    whole = {"items": [{"sku": "abc", "size": None}], "note": None, "count": None, "kind": "order"}
    bound = jsonschema.Draft202012Validator(schema)
    assert bound.is_valid(whole)
    assert not bound.is_valid({**whole, "more": 1})
    assert fitted(PYDANTIC, "openai", strict=False) == PYDANTIC


def test_openai_binds_unions_references_and_formats_in_the_words_that_it_knows() -> None:
    cat = {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {"Cat": cat},
        "type": "object",
        "properties": {
            "pet": {"oneOf": [{"$ref": "#/$defs/Cat"}, {"type": "null"}], "discriminator": {"propertyName": "kind"}},
            "second": {"$ref": "#/$defs/Cat", "description": "another"},
            "third": {"allOf": [{"$ref": "#/$defs/Cat"}], "description": "yet another"},
            "home": {"type": "string", "format": "uri", "not": {"const": ""}},
        },
        "required": ["pet", "second", "third", "home"],
    }
    assert is_bindable(schema)
    bound = fitted(schema, "openai", strict=True)
    assert bound["properties"] == {
        "pet": {"anyOf": [{"$ref": "#/$defs/Cat"}, {"type": "null"}]},
        "second": {"anyOf": [{"$ref": "#/$defs/Cat"}], "description": "another"},
        "third": {"anyOf": [{"$ref": "#/$defs/Cat"}], "description": "yet another"},
        "home": {"type": "string", "description": "format: uri (not: {'const': ''})"},
    }
    assert "$schema" not in bound


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "object", "additionalProperties": {"type": "integer"}}}},
        {"type": "object", "properties": {"a": {"type": "object"}}},
        {"type": "object", "properties": {"a": {"type": "array", "prefixItems": [{"type": "string"}]}}},
        {"type": "object", "properties": {"a": {"allOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]}}},
        {"type": "object", "properties": {}, "if": {"required": ["a"]}},
        UNION,
    ],
)
def test_what_openai_could_bind_to_something_else_only_is_not_bound(schema: dict[str, Any]) -> None:
    assert not is_bindable(schema)


def test_null_is_allowed_in_every_way_that_a_type_is_written() -> None:
    assert nullable({"type": "string"}) == {"type": ["string", "null"]}
    assert nullable({"type": ["string", "null"]}) == {"type": ["string", "null"]}
    assert nullable({"enum": ["a"]}) == {"anyOf": [{"enum": ["a"]}, {"type": "null"}]}
    assert nullable({"$ref": "#/$defs/X"}) == {"anyOf": [{"$ref": "#/$defs/X"}, {"type": "null"}]}


def test_anthropic_gets_a_plain_object_at_the_top() -> None:
    assert fitted(UNION, "anthropic", strict=False) == {
        "type": "object",
        "properties": {"id": {"type": "string"}, "by": {"type": "string"}, "name": {"type": "string"}},
        "required": ["by"],
    }
    assert fitted(PYDANTIC, "anthropic", strict=False) == PYDANTIC


@pytest.mark.parametrize("kind", ["plain", "openai", "anthropic", "gemini"])
def test_a_tool_without_parameters_has_an_object_all_the_same(kind: Any) -> None:
    assert fitted({}, kind, strict=False)["type"] == "object"


def test_what_refers_to_itself_ends() -> None:
    schema = inlined(TREE)
    assert schema["properties"]["value"] == {"type": "integer"}
    assert "$ref" not in str(schema)


@pytest.mark.parametrize("schema", [PYDANTIC, ZOD, UNION, TREE], ids=["pydantic", "zod", "union", "tree"])
def test_the_authors_schema_is_left_alone(schema: dict[str, Any]) -> None:
    before = repr(schema)
    for kind in ("plain", "openai", "anthropic", "gemini"):
        fitted(schema, kind, strict=True)  # type: ignore[arg-type]
    assert repr(schema) == before
    assert strictly({"type": "object", "properties": {"a": {"type": "string"}}})["required"] == ["a"]
