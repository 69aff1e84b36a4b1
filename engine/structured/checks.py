"""What can be said of a grammar without compiling it, and JSON schemas as they are compiled."""

from __future__ import annotations

import json
from typing import Any, Final

from engine.errors import BadRequest
from schemas.structured import MOST_CHOICES, MOST_SOURCE, Structured

_EXPECTED: Final = {
    "regex": "give a regular expression",
    "grammar": "give a grammar",
    "choice": "give at least one text, and none that is empty",
    "json_schema": "give a JSON schema, as the text of a JSON object",
    "structural_tag": "give a JSON object with `structures` and `triggers`, or with a `format`",
}
_OBJECT: Final[dict[str, Any]] = {"type": "object"}

# where a schema has others in it: by name, and directly
_NAMED: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
_DIRECT: Final = (
    *("items", "prefixItems", "additionalItems", "unevaluatedItems", "contains"),
    *("additionalProperties", "unevaluatedProperties", "propertyNames"),
    *("allOf", "anyOf", "oneOf", "not", "if", "then", "else"),
)


def check(structured: Structured) -> None:
    """Look at a grammar from outside.

    Raises:
        BadRequest: It is too large, or not what its kind says.
    """
    if structured.size > MOST_SOURCE or len(structured.choices) > MOST_CHOICES:
        most = f"at most {MOST_SOURCE} characters, and {MOST_CHOICES} choices"
        raise BadRequest(structured.field, f"this has {structured.size} characters, and may have {most}")
    match structured.kind:
        case "json_object":
            fits = True
        case "choice":
            fits = bool(structured.choices) and all(structured.choices)
        case "json_schema":
            fits = isinstance(parsed(structured), (dict, bool))
        case "structural_tag":
            found = parsed(structured)
            fits = isinstance(found, dict) and ("format" in found or {"structures", "triggers"} <= found.keys())
        case _:
            fits = bool(structured.text)
    if not fits:
        raise BadRequest(structured.field, _EXPECTED[structured.kind])


def parsed(structured: Structured) -> Any:
    """Read the JSON of a grammar.

    Raises:
        BadRequest: It is none.
    """
    try:
        return json.loads(structured.text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(structured.field, f"{_EXPECTED[structured.kind]}: {error or 'it nests too deep'}") from error


def schema_of(structured: Structured) -> Any:
    """Give the JSON schema of a request for JSON."""
    return closed(_OBJECT if structured.kind == "json_object" else parsed(structured), structured)


def closed(schema: Any, structured: Structured) -> Any:
    """Give a schema as it is asked for: objects that list properties have no others, if so it is."""
    return schema if structured.additional_properties else _closed(schema)


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: {name: _closed(one) for name, one in value.items()}
        if key in _NAMED and isinstance(value, dict)
        else _closed(value)
        if key in _DIRECT
        else value
        for key, value in schema.items()
    }
    if isinstance(made.get("properties", made.get("patternProperties")), dict):
        made.setdefault("additionalProperties", False)
    return made
