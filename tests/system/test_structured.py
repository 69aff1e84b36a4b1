"""An answer of a form that a client asks for, through the whole stack."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import openai
import pytest

from tests.system.conftest import UpProcess, ask, chat, records
from tests.system.test_record import wait_until_recorded

pytestmark = pytest.mark.servers

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "population": {"type": "integer", "minimum": 0, "maximum": 100_000_000},
        "tags": {"type": "array", "items": {"enum": ["big", "old", "small"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["city", "population", "tags"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
QUESTION: Any = {
    "model": "ostinato-mini",
    "messages": [{"role": "user", "content": "Tell me about Paris."}],
    "max_tokens": 80,
    "temperature": 1.0,
    "seed": 4,
}


def client(up: UpProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{up.url}/v1", api_key="none", timeout=60, max_retries=0)


def test_an_answer_by_a_schema_is_valid_whole_and_streamed(stack: UpProcess) -> None:
    roomy: Any = {**QUESTION, "max_tokens": 200, "seed": 0}
    whole = client(stack).chat.completions.create(**roomy, response_format=FORMAT)
    said = whole.choices[0].message.content or ""
    jsonschema.validate(json.loads(said), CITY)
    assert whole.choices[0].finish_reason == "stop"
    chunks = list(client(stack).chat.completions.create(**roomy, response_format=FORMAT, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_an_answer_that_runs_out_of_tokens_is_valid_and_ends_with_length(stack: UpProcess) -> None:
    short: Any = {**QUESTION, "max_tokens": 28}
    whole = client(stack).chat.completions.create(**short, response_format=FORMAT)
    said = whole.choices[0].message.content or ""
    jsonschema.validate(json.loads(said), CITY)
    assert whole.choices[0].finish_reason == "length"
    chunks = list(client(stack).chat.completions.create(**short, response_format=FORMAT, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said
    assert chunks[-1].choices[0].finish_reason == "length"


def test_several_answers_of_a_form_and_a_raw_prompt_keep_to_it(stack: UpProcess) -> None:
    more: Any = {"structured_outputs": {"regex": "[a-c]{3}-[0-9]{2}"}}
    several = client(stack).chat.completions.create(**QUESTION, n=3, extra_body=more)
    texts = [choice.message.content or "" for choice in several.choices]
    raw = client(stack).completions.create(
        model="ostinato-mini", prompt=["Once", "upon"], max_tokens=16, extra_body=more
    )
    texts += [choice.text for choice in raw.choices]
    assert len(texts) == 5
    assert all(re.fullmatch("[a-c]{3}-[0-9]{2}", text) for text in texts)


def test_a_schema_that_is_none_is_a_bad_request_that_says_why(stack: UpProcess) -> None:
    schema = {"type": "string", "pattern": "(?=a)b"}
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = chat(stack, ask("hi", model="ostinato-mini", response_format=wrong))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "response_format")
    assert "look-around" in error["message"]
    assert chat(stack, ask("hi", model="ostinato-mini")).status_code == 200


def test_an_older_name_is_refused_with_the_one_to_use(stack: UpProcess) -> None:
    answer = chat(stack, ask("hi", model="ostinato-mini", guided_json=CITY))
    assert answer.status_code == 400
    assert "structured_outputs" in answer.json()["error"]["message"]


def test_steps_with_grammars_are_recorded_and_planned_again(own_stack: UpProcess) -> None:
    choice = {"structured_outputs": {"choice": ["yes", "never seen before"]}}
    assert chat(own_stack, ask("Well?", model="ostinato-mini", **choice)).status_code == 200
    wait_until_recorded(own_stack)
    *_, verified = records(own_stack.cli("replay", "engine", "--last", "--verify", "--json"))
    assert (verified["ok"], verified["problem"]) == (True, "")
    assert 0 < verified["plans"] == verified["recorded"]
