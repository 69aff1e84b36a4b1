"""What an answer is to look like, in the words of HTTP clients."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from infra.bridge.completions import generations, read_completion
from infra.bridge.openai import BadRequest, command_data, read_request
from schemas.commands import Generate
from schemas.structured import MOST_SOURCE, Structured

SCHEMA = {"type": "object", "properties": {"z": {"type": "integer"}, "a": {"type": "string"}}}
TAGS = {"structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}], "triggers": ["<f"]}
LATER = {"format": {"type": "regex", "pattern": "a+"}}


def body(**fields: Any) -> bytes:
    return msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})


def wanted(**fields: Any) -> Structured | None:
    command = command_data(read_request(body(**fields)), None)
    assert isinstance(command, Generate)
    # as the bus carries it
    return msgspec.json.decode(msgspec.json.encode(command), type=Generate).structured


def test_an_answer_is_free_unless_a_form_is_asked_for() -> None:
    assert wanted() is None
    assert wanted(response_format={"type": "text"}) is None


@pytest.mark.parametrize(
    ("fields", "kind", "field"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", "response_format"),
        ({"response_format": {"type": "structural_tag", **TAGS}}, "structural_tag", "response_format"),
        ({"response_format": {"type": "structural_tag", **LATER}}, "structural_tag", "response_format"),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", "structured_outputs.json"),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, "json_schema", "structured_outputs.json"),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "structured_outputs.regex"),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "choice", "structured_outputs.choice"),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, "grammar", "structured_outputs.grammar"),
        ({"structured_outputs": {"json_object": True}}, "json_object", "structured_outputs.json_object"),
        ({"structured_outputs": {"structural_tag": TAGS}}, "structural_tag", "structured_outputs.structural_tag"),
        (
            {"structured_outputs": {"structural_tag": json.dumps(LATER)}},
            "structural_tag",
            "structured_outputs.structural_tag",
        ),
    ],
)
def test_every_form_reaches_the_command_with_the_name_the_client_gave_it(
    fields: dict[str, Any], kind: str, field: str
) -> None:
    found = wanted(**fields)
    assert found is not None
    assert (found.kind, found.field) == (kind, field)


def test_a_schema_keeps_the_order_of_its_properties() -> None:
    found = wanted(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}})
    assert found is not None
    assert found.text == json.dumps(SCHEMA)


def test_how_json_is_written_is_told_as_well() -> None:
    more = {"whitespace_pattern": " ?", "disable_any_whitespace": True, "disable_additional_properties": True}
    found = wanted(structured_outputs={"json": SCHEMA, "after": "</think>", **more})
    assert found is not None
    assert (found.whitespace, found.any_whitespace, found.additional_properties) == (" ?", False, False)
    assert found.after == "</think>"


def test_raw_prompts_are_completed_in_a_form_as_well() -> None:
    asked = {"model": "m", "prompt": ["a", "b"], "structured_outputs": {"regex": "a+"}}
    for one in generations(read_completion(msgspec.json.encode(asked))):
        assert one.structured == Structured(kind="regex", text="a+", field="structured_outputs.regex")
    for wrong in ({"guided_regex": "a"}, {"response_format": {"type": "xml"}}):
        with pytest.raises(BadRequest) as error:
            read_completion(msgspec.json.encode({"model": "m", "prompt": "a", **wrong}))
        assert error.value.body.error.param == next(iter(wrong))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format"),
        ({"response_format": {"type": "structural_tag"}}, "response_format"),
        ({"response_format": {"no": "type"}}, "response_format"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"yaml": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": 7}}, "structured_outputs.regex"),
        ({"structured_outputs": {"json": "{nope"}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": {"x": "y" * MOST_SOURCE}}}, "structured_outputs.json"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
        ),
    ],
)
def test_a_form_that_is_none_is_refused_by_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as error:
        read_request(body(**fields))
    assert (error.value.status, error.value.body.error.param) == (400, param)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("guided_json", SCHEMA),
        ("guided_regex", "a"),
        ("guided_choice", ["a"]),
        ("guided_grammar", "x"),
        ("guided_json_object", True),
        ("guided_whitespace_pattern", " "),
        ("structural_tag", TAGS),
    ],
)
def test_an_older_name_is_refused_with_the_one_to_use(name: str, value: Any) -> None:
    with pytest.raises(BadRequest, match=r"give `structured_outputs`: \{.*'" + name.removeprefix("guided_")) as error:
        read_request(body(**{name: value}))
    assert (error.value.status, error.value.body.error.param) == (400, name)


def test_a_backend_is_chosen_by_the_server() -> None:
    with pytest.raises(BadRequest, match=r"engine\.grammar_backend"):
        read_request(body(guided_decoding_backend="xgrammar"))
