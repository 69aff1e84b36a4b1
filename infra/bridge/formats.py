"""What an answer is to look like, as HTTP clients say it: `response_format`, and `structured_outputs` after vLLM."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from engine.errors import BadRequest
from engine.structured.checks import check
from schemas.openai import AnswerRequest, StructuredOutputs
from schemas.structured import Structured, StructuredKind

Check = tuple[str, bool, str]
"""A field, whether it fits, and what it should be."""

_FIELD: Final = "response_format"
_TYPES: Final = ("text", "json_object", "json_schema", "structural_tag")
_KINDS: Final[dict[str, StructuredKind]] = {
    "json": "json_schema",
    "regex": "regex",
    "choice": "choice",
    "grammar": "grammar",
    "json_object": "json_object",
    "structural_tag": "structural_tag",
}
"""Fields of `structured_outputs`, of which one is given."""

_RENAMED: Final = {
    "guided_json": "give `structured_outputs`: {'json': ...}",
    "guided_regex": "give `structured_outputs`: {'regex': ...}",
    "guided_choice": "give `structured_outputs`: {'choice': ...}",
    "guided_grammar": "give `structured_outputs`: {'grammar': ...}",
    "guided_json_object": "give `structured_outputs`: {'json_object': true}",
    "guided_whitespace_pattern": "give `structured_outputs`: {..., 'whitespace_pattern': ...}",
    "guided_decoding_backend": "leave it out: the server is told its backend by the setting engine.grammar_backend",
    "structural_tag": "give `structured_outputs`: {'structural_tag': ...}",
}


def format_checks(request: AnswerRequest) -> Iterator[Check]:
    """Look at what a request says of its answer's form."""
    for name, mend in _RENAMED.items():
        yield name, getattr(request, name) is None, f"this name is not served any more: {mend}"
    given = request.response_format or {"type": "text"}
    kind = given.get("type")
    yield _FIELD, kind in _TYPES, f"`type` is one of {', '.join(_TYPES)}"
    if kind == "json_schema":
        inside = given.get("json_schema")
        fits = isinstance(inside, dict) and isinstance(inside.get("schema"), dict)
        yield _FIELD, fits, "give {'type': 'json_schema', 'json_schema': {'name': ..., 'schema': {...}}}"
    wanted = request.structured_outputs
    if wanted is not None:
        yield "structured_outputs", len(_given(wanted)) == 1, f"give one of {', '.join(_KINDS)}"
        yield "structured_outputs", kind == "text", "give it or `response_format`, not both"
    try:
        asked = structured(request)
        if asked is not None:
            check(asked)
    except BadRequest as error:
        yield error.field, False, error.message
    except RecursionError:
        yield _FIELD if wanted is None else "structured_outputs", False, "it nests too deep"


def structured(request: AnswerRequest) -> Structured | None:
    """Give what the answer is to look like; all `format_checks` but the last were passed."""
    if request.structured_outputs is not None:
        return _structured(request.structured_outputs)
    return _formatted(request.response_format or {})


def _formatted(given: Mapping[str, Any]) -> Structured | None:
    match given.get("type", "text"):
        case "json_object":
            return Structured(kind="json_object", field=_FIELD)
        case "json_schema":
            return Structured(kind="json_schema", text=json.dumps(given["json_schema"]["schema"]), field=_FIELD)
        case "structural_tag":
            tags = {name: value for name, value in given.items() if name != "type"}
            return Structured(kind="structural_tag", text=json.dumps(tags), field=_FIELD)
        case _:
            return None


def _structured(wanted: StructuredOutputs) -> Structured:
    ((name, value),) = _given(wanted).items()
    kind = _KINDS[name]
    text = value if isinstance(value, str) else json.dumps(value) if isinstance(value, dict) else ""
    return Structured(
        kind=kind,
        text=text,
        choices=tuple(value) if isinstance(value, list) else (),
        whitespace=wanted.whitespace_pattern,
        any_whitespace=not wanted.disable_any_whitespace,
        additional_properties=not wanted.disable_additional_properties,
        after=wanted.after,
        field=f"structured_outputs.{name}",
    )


def _given(wanted: StructuredOutputs) -> dict[str, Any]:
    """List the fields that say what is wanted; `json_object: false` says nothing."""
    return {name: value for name in _KINDS if (value := getattr(wanted, name)) is not None and value is not False}
