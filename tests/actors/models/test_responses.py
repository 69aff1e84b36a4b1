"""OpenAI's Responses: what is asked, what goes back of what was thought, and what fails."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from actors.errors import ProviderFailed
from actors.models.provider import ModelAnswer, ModelCall
from actors.models.wires.formats import WIRES
from schemas.generation import Sampling
from schemas.messages import Calling, Image, Message, Thought, ToolCall, ToolSpec
from schemas.structured import Structured
from tests.actors.models.calls import asking, reached
from tests.actors.models.double import event
from tests.actors.models.recorded import Recorded
from tests.actors.models.recorded_responses import CODEX, OPEN_MODEL, PHASES, TEXT

WEATHER = ToolSpec("weather", "Tell the weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
SCHEMA = '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'


def body(call: ModelCall, name: str = "openai/gpt-5-codex", **changes: Any) -> dict[str, Any]:
    request = WIRES["responses"].request(call, reached(name, **changes))
    found: dict[str, Any] = msgspec.json.decode(request.body)
    return found


def answered(recorded: Recorded, *more: bytes) -> ModelAnswer:
    reader = WIRES["responses"].reader(asking(), reached(f"{recorded.provider}/m"))
    for part in (*recorded.parts, *more):
        reader.feed(part)
    return reader.end()


def said(answer: ModelAnswer, **changes: Any) -> Message:
    """An answer as the next request has it."""
    spoken = Message("assistant", answer.text, answer.tool_calls, reasoning=answer.reasoning, thoughts=answer.thoughts)
    return replace(spoken, **changes)


def results(message: Message) -> list[Message]:
    return [Message("tool", "rain", tool_call_id=call.id) for call in message.tool_calls]


def outputs(recorded: Recorded) -> list[dict[str, Any]]:
    """The items that a stream told of at its end."""
    last = msgspec.json.decode(recorded.parts[-1].split(b"data: ")[1])
    found: list[dict[str, Any]] = last["response"]["output"]
    return found


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("openai/o3-pro-2025-06-10", "responses"),
        ("openai/gpt-5-codex", "responses"),
        ("openai/gpt-5.2-pro", "responses"),
        ("openai/codex-mini-latest", "responses"),
        ("openai/o4-mini-deep-research", "responses"),
        ("azure/gpt-5-codex", "responses"),
        ("openai/gpt-5", "chat"),
        ("openai/o3", "chat"),
        ("azure/mine", "azure"),
        ("openrouter/openai/gpt-5-codex", "chat"),
    ],
)
def test_models_that_have_nothing_else_are_asked_by_it(name: str, wire: str) -> None:
    model = reached(name)
    assert model.provider.speaks(model.model) == wire


def test_any_model_can_be() -> None:
    assert reached("openai/gpt-5", responses=["gpt-5*"]).provider.speaks("gpt-5") == "responses"
    assert reached("vllm/m", wire="responses").provider.speaks("m") == "responses"


def test_where_it_is_asked() -> None:
    for name, url in (
        ("openai/gpt-5-codex", "https://api.openai.com/v1/responses"),
        ("azure/gpt-5-codex", "https://acme.openai.azure.com/openai/v1/responses"),
    ):
        assert WIRES["responses"].request(asking(), reached(name)).url == url


def test_a_request_says_all_and_has_nothing_stored() -> None:
    pictured = Message("user", "This:", images=(Image(url="data:image/png;base64,QUJD", detail="low"),))
    call = asking(
        Message("system", "Be brief."),
        pictured,
        tools=(WEATHER, replace(WEATHER, name="sun", strict=True)),
        calling=Calling("required", "weather", parallel=False),
        sampling=Sampling(max_tokens=64, structured=Structured("json_schema", SCHEMA)),
        options={"reasoning_effort": "low", "reasoning": {"summary": "auto"}, "text": {"verbosity": "high"}},
    )
    sent = body(call)
    schema = {**msgspec.json.decode(SCHEMA), "additionalProperties": False}
    assert [tool.pop("parameters")["type"] for tool in sent["tools"]] == ["object", "object"]
    assert sent == {
        "model": "gpt-5-codex",
        "input": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "This:"},
                    {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "low"},
                ],
            },
        ],
        "stream": True,
        "store": False,
        "max_output_tokens": 64,
        "include": ["reasoning.encrypted_content"],
        "tools": [
            {"type": "function", "name": "weather", "description": "Tell the weather.", "strict": False},
            {"type": "function", "name": "sun", "description": "Tell the weather.", "strict": True},
        ],
        "tool_choice": {"type": "function", "name": "weather"},
        "parallel_tool_calls": False,
        "text": {
            "format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": True},
            "verbosity": "high",
        },
        "reasoning": {"effort": "low", "summary": "auto"},
    }


def test_a_model_that_does_not_think_takes_a_temperature_and_tells_of_tokens() -> None:
    sent = body(asking(sampling=Sampling(temperature=0.5, top_p=0.9, logprobs=3)), "openai/gpt-4o")
    assert (sent["temperature"], sent["top_p"], sent["top_logprobs"]) == (0.5, 0.9, 3)
    assert sent["include"] == ["message.output_text.logprobs"]
    delta = {"output_index": 0, "item_id": "m", "content_index": 0, "delta": "Hi"}
    token = {"token": "Hi", "logprob": -0.5, "top_logprobs": [{"token": "Yo", "logprob": -0.25}]}
    told = {**delta, "logprobs": [token]}
    reader = WIRES["responses"].reader(asking(), reached("openai/gpt-4o"))
    (piece,) = reader.feed(event({"type": "response.output_text.delta", **told}))
    assert (piece.text, piece.logprobs[0].logprob, piece.logprobs[0].rank) == ("Hi", -0.5, 2)


def test_what_was_thought_goes_back_sealed_in_its_place() -> None:
    spoken = said(answered(CODEX))
    sent = body(asking("Weather?", spoken, *results(spoken), tools=(WEATHER,)))["input"]
    whole = "First, look.\n\nThen tell."
    assert sent[1:] == [
        {
            "type": "reasoning",
            "id": "rs_0",
            "summary": [{"type": "summary_text", "text": whole}],
            "encrypted_content": "gAAAAAB1",
        },
        {"role": "assistant", "content": "Let me look.", "phase": "commentary"},
        {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAAAAB2"},
        {"type": "function_call", "call_id": "call_a", "name": "weather", "arguments": '{"city":"Brest"}'},
        {"type": "function_call", "call_id": "call_b", "name": "time", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_a", "output": "rain"},
        {"type": "function_call_output", "call_id": "call_b", "output": "rain"},
    ]
    # as they came, in their order
    assert [item["type"] for item in outputs(CODEX)] == [item.get("type", "message") for item in sent[1:6]]


def test_each_message_of_an_answer_goes_back_as_what_it_was() -> None:
    sent = body(asking("Weather?", said(answered(PHASES)), "And now?"))["input"]
    assert sent[1:-1] == [
        {"role": "assistant", "content": "I look.", "phase": "commentary"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAAB3"},
        {"role": "assistant", "content": "It rains.", "phase": "final_answer"},
    ]


def test_what_a_model_thought_aloud_goes_back_as_it_was() -> None:
    spoken = said(answered(OPEN_MODEL))
    sent = body(asking("Weather?", spoken, *results(spoken)), "vllm/m", wire="responses")["input"]
    thought = [{"type": "reasoning_text", "text": "Use the tool."}]
    assert sent[1] == {"type": "reasoning", "id": "rs_v", "summary": [], "content": thought}


@pytest.mark.parametrize(
    "changes",
    [
        {"content": "", "tool_calls": (ToolCall("other", "weather", "{}"),)},
        {"reasoning": "", "tool_calls": (ToolCall("other", "weather", "{}"),)},
        {"thoughts": (Thought("anthropic", 24, "sig"), Thought("openai", 24))},
    ],
    ids=["its text is gone", "its summary is gone", "it is another's"],
)
def test_what_was_thought_does_not_go_back_where_what_it_was_for_is_gone(changes: dict[str, Any]) -> None:
    spoken = said(answered(CODEX), **changes)
    items = body(asking("Weather?", spoken, *results(spoken)))["input"]
    assert [item for item in items if item.get("type") == "reasoning"] == []
    assert any(item.get("type") == "function_call" for item in items)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (asking(stop=("END",)), "stop"),
        (asking(sampling=Sampling(presence_penalty=1)), "presence_penalty"),
        (asking(sampling=Sampling(logit_bias={1: 2.0})), "logit_bias"),
        (asking(sampling=Sampling(thinking_budget=2000)), "thinking_budget"),
        (asking(sampling=Sampling(structured=Structured("regex", "a+"))), "structured"),
        (asking(prompt="Once upon"), "prompt"),
    ],
)
def test_what_it_does_not_know_is_refused(call: ModelCall, field: str) -> None:
    with pytest.raises(ProviderFailed) as failed:
        body(call)
    assert failed.value.problem.field == field


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"type": "error", "code": "rate_limit_exceeded", "message": "slow down", "param": None}, "overloaded"),
        ({"type": "error", "error": {"type": "server_error", "code": None, "message": "oops"}}, "engine"),
        ({"type": "response.failed", "response": {"error": {"code": "server_error", "message": "oops"}}}, "engine"),
        (
            {"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded", "message": "slow"}}},
            "overloaded",
        ),
        (
            {"type": "response.failed", "response": {"error": {"code": "invalid_prompt", "message": "not that"}}},
            "invalid",
        ),
        (
            {"type": "error", "code": "context_length_exceeded", "message": "Your input exceeds the context window"},
            "too_long",
        ),
        ({"type": "error", "code": "insufficient_quota", "message": "You exceeded your current quota"}, "budget"),
        ({"type": "response.failed", "response": {"error": None}}, "engine"),
    ],
)
def test_an_error_in_the_middle_of_a_stream_is_told(told: dict[str, Any], kind: str) -> None:
    with pytest.raises(ProviderFailed) as failed:
        answered(replace_parts(TEXT, 4), event(told, str(told["type"])))
    assert failed.value.problem.kind == kind
    assert failed.value.elsewhere == (kind in {"overloaded", "engine", "budget"})


@pytest.mark.parametrize(
    "told",
    [
        {"type": "response.refusal.delta", "output_index": 0, "content_index": 0, "item_id": "m", "delta": "No."},
        {
            "type": "response.output_item.done",
            "output_index": 0,
            "item": {"type": "message", "content": [{"type": "refusal", "refusal": "No."}]},
        },
    ],
)
def test_an_answer_that_is_declined_is_a_refusal_that_no_retry_mends(told: dict[str, Any]) -> None:
    ended = {"type": "response.completed", "response": {"output": [], "usage": None}}
    with pytest.raises(ProviderFailed, match="declined") as failed:
        answered(replace_parts(TEXT, 0), event(told), event(ended))
    assert (failed.value.problem.kind, failed.value.elsewhere) == ("invalid", False)


def test_an_answer_that_is_withheld_is_one_too() -> None:
    details = {"incomplete_details": {"reason": "content_filter"}, "output": [], "usage": None}
    with pytest.raises(ProviderFailed, match="withheld"):
        answered(replace_parts(TEXT, 0), event({"type": "response.incomplete", "response": details}))


def test_who_thinks_for_long_has_begun_and_goes_on_for_as_long_as_its_provider_says_so() -> None:
    reader = WIRES["responses"].reader(asking(), reached("openai/gpt-5-pro"))
    alive = event({"type": "keepalive", "sequence_number": 3})
    begun, over = (
        event({"type": f"response.output_item.{kind}", "output_index": 0, "item": {"type": "reasoning", "id": "rs_1"}})
        for kind in ("added", "done")
    )
    counted = list[tuple[bool, int]]()
    for part in (TEXT.parts[0], begun, over):
        reader.feed(part)
        before = reader.heard.events
        reader.feed(alive)
        counted.append((reader.heard.begun, reader.heard.events - before))
    assert counted == [(False, 0), (True, 1), (True, 0)]


def replace_parts(recorded: Recorded, count: int) -> Recorded:
    """Give the first parts of a stream."""
    return Recorded(recorded.provider, recorded.wire, recorded.parts[:count])
