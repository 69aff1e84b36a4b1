"""JSON Schemas as providers take them: small functions, each for one thing that some refuse.

What must be left out of a schema is said in its description, so that the model still reads it. A schema that OpenAI
cannot bind a model to as it is meant (objects of any keys, tuples, conditions) is given to it unbound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from actors.models.registry import SchemaKind

Schema = dict[str, Any]

_BELOW = ("properties", "$defs", "definitions", "patternProperties")
"""Keywords of which each value is a mapping of schemas."""
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_DEEPEST = 8
"""How often a schema is unfolded in itself, where it must stand without references."""

_BOUNDS = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern",
    "format", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "default",
)  # fmt: skip
_GEMINI_KNOWS = frozenset({
    "type", "format", "title", "description", "nullable", "enum", "maxItems", "minItems", "properties", "required",
    "minProperties", "maxProperties", "minLength", "maxLength", "pattern", "anyOf", "propertyOrdering", "items",
    "minimum", "maximum",
})  # fmt: skip
_GEMINI_FORMATS = frozenset({"enum", "date-time", "float", "double", "int32", "int64"})
_STRICT_REFUSES = frozenset({
    "default", "minLength", "maxLength", "uniqueItems", "minProperties", "maxProperties", "not", "contains",
    "propertyNames", "examples",
})  # fmt: skip
_STRICT_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_UNBOUND = frozenset({
    "patternProperties", "prefixItems", "if", "then", "else", "dependentRequired", "dependentSchemas",
    "unevaluatedProperties",
})  # fmt: skip
"""Keywords that no schema without them can stand for, and OpenAI knows none of."""


def fitted(schema: Mapping[str, Any], kind: SchemaKind, *, strict: bool) -> Schema:
    """Write a tool's parameters, or an answer's schema, as a kind of provider takes it.

    Args:
        schema: as its author wrote it.
        kind: of the provider.
        strict: whether the provider is to bind the model to it.
    """
    whole = an_object(dict(schema))
    match kind:
        case "openai":
            return strictly(whole) if strict else whole
        case "anthropic":
            return without_top_unions(whole)
        case "gemini":
            return for_gemini(whole)
        case _:
            return whole


def an_object(schema: Schema) -> Schema:
    """Say that parameters are an object, with properties: a tool without any has neither."""
    reference = str(schema.get("$ref", "")).split("/")
    if len(reference) == 3 and reference[1] in {"$defs", "definitions"}:
        target = schema.get(reference[1], {}).get(reference[2], {})
        return an_object({**target, **{name: value for name, value in schema.items() if name != "$ref"}})
    if any(name in schema for name in _LISTS):
        return schema
    whole = {"type": "object", **schema}
    return whole if whole["type"] != "object" or "properties" in whole else {**whole, "properties": {}}


def is_bindable(schema: Schema) -> bool:
    """Say whether OpenAI can bind a model to a schema as it is meant."""
    bindable = schema.get("type") == "object" or "properties" in schema

    def look(part: Schema) -> Schema:
        nonlocal bindable
        free = part.get("additionalProperties", "properties" not in part and part.get("type") == "object")
        laid = part.get("allOf", ())
        bindable &= not (_UNBOUND & part.keys()) and isinstance(free, bool) and ("properties" in part or not free)
        bindable &= len(laid) < 2 or not any("$ref" in below for below in laid)  # which needs laying over one another
        return part

    walked(schema, look)
    return bindable


def strictly(schema: Schema) -> Schema:
    """Bind as OpenAI does: every property is required, what was not may be null, nothing else is allowed."""

    def bind(part: Schema) -> Schema:
        if "oneOf" in part:
            part = {**part, "anyOf": [*part.get("anyOf", ()), *part["oneOf"]]}
            del part["oneOf"]
        part = {name: value for name, value in part.items() if name not in {"discriminator", "$schema"}}
        if "$ref" in part and len(part) > 1:
            part = {"anyOf": [{"$ref": part["$ref"]}], **{name: part[name] for name in part if name != "$ref"}}
        if part.get("format") not in _STRICT_FORMATS | {None}:
            part = noted(part, frozenset({"format"}))
        part = noted(part, _STRICT_REFUSES)
        if part.get("type") != "object" and "properties" not in part:
            return part
        properties = part.get("properties", {})
        needed = set(part.get("required", ()))
        bound = {name: below if name in needed else nullable(below) for name, below in properties.items()}
        return {**part, "properties": bound, "required": list(bound), "additionalProperties": False}

    return walked(flattened(schema), bind)


def nullable(schema: Any) -> Any:
    """Allow null."""
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    if isinstance(kind, str) and kind != "null" and "enum" not in schema and "const" not in schema:
        return {**schema, "type": [kind, "null"]}
    if isinstance(kind, list):
        return schema if "null" in kind else {**schema, "type": [*kind, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def without_top_unions(schema: Schema) -> Schema:
    """Have a plain object at the top, as Anthropic wants: of a union there, what its parts have together."""
    found = [(name, part) for name in ("anyOf", "oneOf", "allOf") for part in schema.get(name, ())]
    if not found:
        return schema
    properties: Schema = dict(schema.get("properties", {}))
    required = set(schema.get("required", ()))
    alternatives = [set(part.get("required", ())) for name, part in found if name != "allOf" and isinstance(part, dict)]
    for name, part in found:
        if isinstance(part, dict):
            properties |= part.get("properties", {})
            required |= set(part.get("required", ())) if name == "allOf" else set()
    required |= set.intersection(*alternatives) if alternatives else set()
    kept = {name: value for name, value in schema.items() if name not in {"anyOf", "oneOf", "allOf"}}
    return {**kept, "type": "object", "properties": properties, "required": sorted(required)}


def for_gemini(schema: Schema) -> Schema:
    """Write a schema in Gemini's part of OpenAPI: no references, one type each, texts alone in an enum."""

    def adapt(part: Schema) -> Schema:
        part = one_type(constant(part))
        if "oneOf" in part:
            part = {**part, "anyOf": [*part.get("anyOf", ()), *part["oneOf"]]}
        if "enum" in part and not all(isinstance(value, str) for value in part["enum"]):
            values = ", ".join(map(str, part["enum"]))
            part = _described({name: value for name, value in part.items() if name != "enum"}, f"one of {values}")
        if part.get("format") not in _GEMINI_FORMATS | {None}:
            part = noted(part, frozenset({"format"}))
        part = noted(part, frozenset(_BOUNDS) - _GEMINI_KNOWS)
        part = {name: value for name, value in part.items() if name in _GEMINI_KNOWS}
        if part.get("type") == "array":
            part.setdefault("items", {"type": "string"})
        if part.get("type") == "object" and not part.get("properties"):
            part.pop("properties", None)
            part.pop("required", None)
        return part

    return walked(flattened(inlined(schema)), adapt)


def constant(part: Schema) -> Schema:
    """Write a constant as a choice of one."""
    if "const" not in part:
        return part
    kept = {name: value for name, value in part.items() if name != "const"}
    kind = {} if "type" in kept or not isinstance(part["const"], str) else {"type": "string"}
    return {**kept, **kind, "enum": [part["const"]]}


def one_type(part: Schema) -> Schema:
    """Write several types as alternatives, and null as `nullable`."""
    kinds = part.get("type")
    if isinstance(kinds, list):
        others = [kind for kind in kinds if kind != "null"]
        part = {**part, "nullable": True} if len(others) < len(kinds) else dict(part)
        if len(others) == 1:
            return {**part, "type": others[0]}
        del part["type"]
        return {**part, "anyOf": [{"type": kind} for kind in others]}
    for name in ("anyOf", "oneOf"):
        parts = part.get(name)
        if isinstance(parts, list) and {"type": "null"} in parts:
            left = [below for below in parts if below != {"type": "null"}]
            kept = {key: value for key, value in part.items() if key != name} | {"nullable": True}
            return {**left[0], **kept} if len(left) == 1 else {**kept, name: left}
    return part


def flattened(schema: Schema) -> Schema:
    """Lay the parts of every `allOf` over one another."""

    def lay(part: Schema) -> Schema:
        if "allOf" not in part:
            return part
        whole = {name: value for name, value in part.items() if name != "allOf"}
        for below in part["allOf"]:
            properties = {**whole.get("properties", {}), **below.get("properties", {})}
            required = [*whole.get("required", ()), *below.get("required", ())]
            whole = {**below, **whole}
            whole |= {"properties": properties} if properties else {}
            whole |= {"required": list(dict.fromkeys(required))} if required else {}
        return whole

    return walked(schema, lay)


def inlined(schema: Schema) -> Schema:
    """Put what is referred to where it is referred to; what goes on for ever ends as any object."""
    shared = {
        f"#/{name}/{key}": value for name in ("$defs", "definitions") for key, value in schema.get(name, {}).items()
    }

    def put(part: Any, inside: tuple[str, ...]) -> Any:
        if isinstance(part, list):
            return [put(below, inside) for below in part]
        if not isinstance(part, dict):
            return part
        reference = part.get("$ref")
        if isinstance(reference, str):
            others = {name: value for name, value in part.items() if name != "$ref"}
            if reference not in shared or inside.count(reference) > 1 or len(inside) > _DEEPEST:
                return {"type": "object", **put(others, inside)}
            return {**put(shared[reference], (*inside, reference)), **put(others, inside)}
        return {name: put(value, inside) for name, value in part.items()}

    kept = {name: value for name, value in schema.items() if name not in {"$defs", "definitions", "$schema"}}
    whole: Schema = put(kept, ())
    return whole


def noted(part: Schema, names: frozenset[str]) -> Schema:
    """Say in the description what is left out."""
    left = {name: part[name] for name in sorted(names & part.keys())}
    if not left:
        return part
    kept = {name: value for name, value in part.items() if name not in left}
    return _described(kept, ", ".join(f"{name}: {value}" for name, value in left.items()))


def _described(part: Schema, note: str) -> Schema:
    said = part.get("description", "")
    return {**part, "description": f"{said} ({note})" if said else note}


def walked(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """Change every schema inside, from the inmost outwards."""

    def walk(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        whole = dict(part)
        for name in _BELOW:
            if isinstance(whole.get(name), dict):
                whole[name] = {key: walk(below) for key, below in whole[name].items()}
        for name in _LISTS:
            if isinstance(whole.get(name), list):
                whole[name] = [walk(below) for below in whole[name]]
        for name in ("items", "additionalProperties", "not"):
            if isinstance(whole.get(name), dict):
                whole[name] = walk(whole[name])
        return change(whole)

    walked_whole: Schema = walk(schema)
    return walked_whole
