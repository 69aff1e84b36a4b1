"""Arguments that are written as bare text, typed by the tool's JSON Schema."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

JSON_SPACE: Final = r"\n?[ \t]{0,32}"
"""What may stand between the tokens of JSON: enough to write it in lines, and not without end."""

_OF: Final[tuple[tuple[type, str], ...]] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)
_PYTHON: Final = {"True": True, "False": False, "None": None}


def typed(text: str, schema: Any, root: Any) -> Any:
    """Read a value that a model wrote without quotes.

    Args:
        text: as it was written.
        schema: of the value; whatever is no schema says nothing.
        root: the schema that `$ref` goes by.

    Returns:
        What the schema allows it to be; the text itself, where it allows a text and nothing else fits, or says nothing.
    """
    allowed = types(schema, root)
    if not allowed or allowed == {"string"}:
        return text
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        if text.strip() not in _PYTHON:
            return text
        value = _PYTHON[text.strip()]
    return value if "string" not in allowed or _type(value) & allowed else text


def properties(schema: Any) -> Mapping[str, Any]:
    """Give the schemas of an object's properties."""
    found = schema.get("properties") if isinstance(schema, dict) else None
    return found if isinstance(found, dict) else {}


def required(schema: Any) -> frozenset[str]:
    """Name the properties that an object must have."""
    found = schema.get("required") if isinstance(schema, dict) else None
    return frozenset(name for name in _list(found) if isinstance(name, str))


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(number)
    return value


def _type(value: Any) -> set[str]:
    """Name a value's types."""
    if value is None:
        return {"null"}
    name = next(name for kind, name in _OF if isinstance(value, kind))
    return {name, "number"} if name == "integer" else {name}


def types(schema: Any, root: Any) -> set[str]:
    """Collect the types that a schema allows, following references in `root`; nothing where it does not say."""
    found: set[str] = set()
    seen: set[int] = set()
    left = [schema]
    while left:
        part = left.pop()
        if not isinstance(part, dict) or id(part) in seen:
            continue
        seen.add(id(part))
        named = part.get("type")
        own = {named} if isinstance(named, str) else {name for name in _list(named) if isinstance(name, str)}
        if not own:
            values = [*_list(part.get("enum")), *([part["const"]] if "const" in part else ())]
            own = {name for value in values for name in _type(value)}
        found |= own
        left += [other for name in ("anyOf", "oneOf", "allOf") for other in _list(part.get(name))]
        if isinstance(part.get("$ref"), str):
            left.append(_followed(part["$ref"], root))
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _followed(reference: str, root: Any) -> Any:
    """Look up a reference inside the schema."""
    value = root
    for name in reference.removeprefix("#").split("/")[1:]:
        value = value.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(value, dict) else None
    return value
