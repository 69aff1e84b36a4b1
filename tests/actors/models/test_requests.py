"""What each format is sent: conversations with tools and thoughts, settings, forms of answers."""

from __future__ import annotations

import itertools
from typing import Any, cast

import botocore.session
import botocore.validate
import msgspec
import pytest
from msgspec.structs import replace

from actors.errors import ProviderFailed
from actors.models.provider import ModelCall
from actors.models.wires.formats import WIRES
from schemas.generation import Sampling
from schemas.messages import Calling, Image, Message, Thought, ToolCall, ToolSpec
from schemas.structured import Structured
from tests.actors.models.calls import asking, reached
from tests.actors.models.recorded import ALL

WEATHER = ToolSpec("weather", "Tell the weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
CALL = ToolCall("call_a", "weather", '{"city":"Brest"}')
SCHEMA = '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'


def body(name: str, call: ModelCall, **changes: Any) -> dict[str, Any]:
    model = reached(name, **changes)
    found: dict[str, Any] = msgspec.json.decode(WIRES[model.provider.wire].request(call, model).body)
    return found


def talked(origin: str, *thoughts: Thought, reasoning: str = "") -> ModelCall:
    """A conversation in the middle of a turn with a tool."""
    thought = Message("assistant", "Let me look.", (CALL,), reasoning=reasoning, thoughts=thoughts)
    result = Message("tool", "rain", tool_call_id="call_a")
    return asking(Message("system", "Be brief."), "Weather?", thought, result, tools=(WEATHER,))


def test_openai() -> None:
    call = replace(talked("openai"), calling=Calling("required", "weather", parallel=False), stop=("END",))
    assert body("openai/gpt-4o", call) == {
        "model": "gpt-4o",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": "Let me look.",
                "tool_calls": [
                    {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": CALL.arguments}}
                ],
            },
            {"role": "tool", "content": "rain", "tool_call_id": "call_a"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 64,
        "temperature": 0.0,
        "seed": 0,
        "stop": ["END"],
        "tools": [
            {
                "type": "function",
                "function": {"name": "weather", "description": "Tell the weather.", "parameters": WEATHER.parameters},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
    }


@pytest.mark.parametrize(
    ("model", "tempered"), [("openai/gpt-4o", True), ("openai/gpt-5.4", False), ("openai/o3", False)]
)
def test_a_model_that_takes_no_temperature_is_sent_none(model: str, tempered: bool) -> None:
    assert ("temperature" in body(model, asking())) == tempered


def test_thoughts_go_back_to_who_thought_them_in_the_turn_under_way_alone() -> None:
    thought = Thought("deepseek", length=3)
    call = talked("deepseek", thought, reasoning="Hm.")
    assert body("deepseek/m", call)["messages"][2]["reasoning_content"] == "Hm."
    assert "reasoning_content" not in body("moonshotai/m", call)["messages"][2]
    later = replace(call, messages=(*call.messages, Message("assistant", "Rain."), Message("user", "And tomorrow?")))
    assert "reasoning_content" not in body("deepseek/m", later)["messages"][2]


def test_openrouter_gets_its_details_back_word_for_word() -> None:
    [thought] = ALL["openrouter"].thoughts
    call = talked("openrouter", thought, reasoning="Let me see.")
    assert body("openrouter/m", call)["messages"][2]["reasoning_details"] == [msgspec.json.decode(thought.seal)]


def test_anthropic_gets_its_thoughts_back_signed_in_their_places_and_what_to_keep_is_marked() -> None:
    thoughts = (Thought("anthropic", 3, "sig"), Thought("anthropic", seal="blob", kind="sealed", after=4))
    sent = body("anthropic/claude-haiku-4-5", talked("anthropic", *thoughts, reasoning="Hm."))
    assert sent["system"] == [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    assert sent["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
        {"type": "text", "text": "Let "},
        {"type": "redacted_thinking", "data": "blob"},
        {"type": "text", "text": "me look."},
        {"type": "tool_use", "id": "call_a", "name": "weather", "input": {"city": "Brest"}},
    ]
    assert sent["messages"][2] == {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "call_a",
                "content": "rain",
                "cache_control": {"type": "ephemeral"},
            }
        ],
    }
    assert sent["tools"][0]["input_schema"] == WEATHER.parameters
    assert sent["tool_choice"] == {"type": "auto"}
    assert (sent["max_tokens"], sent["temperature"]) == (64, 0.0)


def test_who_thinks_within_a_budget_has_room_for_it_and_takes_no_temperature() -> None:
    sent = body("anthropic/claude-haiku-4-5", asking(sampling=Sampling(max_tokens=100, thinking_budget=2000)))
    assert sent["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert sent["max_tokens"] > 2000
    assert "temperature" not in sent


def test_gemini_gets_its_signatures_back_where_they_were() -> None:
    thoughts = (
        Thought("google", 3, "textsig", after=12),
        Thought("google", seal="callsig", call_id="call_a", after=12),
    )
    sent = body("google/gemini-3-flash", talked("google", *thoughts, reasoning="Hm."))
    assert sent["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    assert sent["contents"][1] == {
        "role": "model",
        "parts": [
            {"text": "Let me look.", "thoughtSignature": "textsig"},
            {"functionCall": {"name": "weather", "args": {"city": "Brest"}}, "thoughtSignature": "callsig"},
        ],
    }
    assert sent["contents"][2]["parts"] == [{"functionResponse": {"name": "weather", "response": {"result": "rain"}}}]
    assert sent["generationConfig"]["thinkingConfig"] == {"includeThoughts": True}
    assert sent["toolConfig"] == {"functionCallingConfig": {"mode": "AUTO"}}


def test_a_call_of_another_model_is_shown_to_gemini_with_what_stands_for_a_signature() -> None:
    sent = body("google/gemini-3-flash", talked("openai", Thought("openai", 3), reasoning="Hm."))
    [_, called] = sent["contents"][1]["parts"]
    assert called["thoughtSignature"] == "skip_thought_signature_validator"
    old = body("google/gemini-2.5-flash", talked("openai"))
    assert "thoughtSignature" not in old["contents"][1]["parts"][1]


@pytest.mark.parametrize("choice", ["auto", "required", "none"])
def test_bedrock_is_sent_what_its_own_library_finds_right(choice: Any) -> None:
    thoughts = (Thought("bedrock", 3, "sig"), Thought("bedrock", seal="YmxvYg==", kind="sealed"))
    call = replace(talked("bedrock", *thoughts, reasoning="Hm."), calling=Calling(choice), stop=("END",))
    call = replace(call, messages=(*call.messages, SHOWN))
    sent = body("bedrock/claude-x", call)
    session = cast("Any", botocore.session.Session())
    shape = session.get_service_model("bedrock-runtime").operation_model("ConverseStream").input_shape
    report = botocore.validate.ParamValidator().validate({"modelId": "m", **_as_python(sent)}, shape)
    assert not report.has_errors(), report.generate_report()
    assert sent["messages"][1]["content"][-1]["toolUse"]["input"] == {"city": "Brest"}


def _as_python(value: Any) -> Any:
    """Give JSON as botocore's parameters are: blobs as bytes."""
    if isinstance(value, dict):
        blobs = {"redactedContent", "bytes"}
        return {key: below.encode() if key in blobs else _as_python(below) for key, below in value.items()}
    return [_as_python(below) for below in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("name", "where", "expected"),
    [
        ("openai/gpt-4o", "response_format", {"type": "json_schema", "json_schema": {
            "name": "answer", "strict": True,
            "schema": {**msgspec.json.decode(SCHEMA), "additionalProperties": False}}}),
        ("togetherai/m", "response_format", {"type": "json_schema", "json_schema": {
            "name": "answer", "schema": msgspec.json.decode(SCHEMA)}}),
        ("deepseek/m", "response_format", {"type": "json_object"}),
        ("anthropic/claude-x", "output_config", {"format": {
            "type": "json_schema", "schema": msgspec.json.decode(SCHEMA)}}),
    ],
)  # fmt: skip
def test_a_form_of_the_answer_is_asked_for_as_the_provider_has_it(name: str, where: str, expected: Any) -> None:
    call = asking(sampling=Sampling(structured=Structured("json_schema", SCHEMA)))
    assert body(name, call)[where] == expected


def test_gemini_is_given_the_form_in_its_own_schema_and_deepseek_in_words() -> None:
    call = asking(sampling=Sampling(structured=Structured("json_schema", SCHEMA)))
    assert body("google/gemini-3-flash", call)["generationConfig"]["responseSchema"]["required"] == ["a"]
    assert SCHEMA in body("deepseek/m", call)["messages"][0]["content"]


@pytest.mark.parametrize("count", [0, 3])
def test_what_a_model_makes_of_tokens_is_asked_for_as_the_provider_has_it(count: int) -> None:
    call = asking(sampling=Sampling(logprobs=count))
    sent = body("openai/gpt-4o", call)
    assert (sent["logprobs"], sent.get("top_logprobs", 0)) == (True, count)
    sent = body("google/gemini-2.5-flash", call)["generationConfig"]
    assert (sent["responseLogprobs"], sent.get("logprobs", 0)) == (True, count)
    assert "logprobs" not in body("openai/gpt-4o", asking())


@pytest.mark.parametrize(
    ("name", "call", "field"),
    [
        ("bedrock/m", asking(sampling=Sampling(structured=Structured("json_schema", SCHEMA))), "structured"),
        ("openai/m", asking(sampling=Sampling(structured=Structured("regex", "a+"))), "structured"),
        ("anthropic/m", asking(sampling=Sampling(presence_penalty=1)), "presence_penalty"),
        ("google/m", asking(sampling=Sampling(logit_bias={1: 2.0})), "logit_bias"),
        ("anthropic/m", asking(sampling=Sampling(logprobs=3)), "logprobs"),
        ("groq/m", asking(sampling=Sampling(logprobs=0)), "logprobs"),
        ("openai/m", asking(sampling=Sampling(logprobs=-1)), "logprobs"),
        ("openai/m", asking(sampling=Sampling(prompt_logprobs=1)), "prompt_logprobs"),
        ("openai/m", asking(prompt="Once upon"), "prompt"),
    ],
)
def test_what_would_be_passed_over_is_refused(name: str, call: ModelCall, field: str) -> None:
    with pytest.raises(ProviderFailed) as failed:
        body(name, call)
    assert failed.value.problem.field == field


def test_a_server_of_ones_own_takes_more_settings_and_options_are_laid_over_all() -> None:
    call = asking(sampling=Sampling(top_k=40, min_p=0.1, seed=5), options={"stream_options": {"x": 1}, "best": True})
    sent = body("vllm/m", call)
    assert (sent["top_k"], sent["min_p"], sent["seed"], sent["best"]) == (40, 0.1, 5, True)
    assert sent["stream_options"] == {"include_usage": True, "x": 1}
    assert "repetition_penalty" not in sent


@pytest.mark.parametrize("name", ["openai/m", "anthropic/m", "google/gemini-3-flash", "bedrock/m", "mistral/m"])
def test_a_broken_history_is_sent_mended(name: str) -> None:
    history = (
        Message("assistant", "Hello."),
        Message("tool", "?", tool_call_id="x"),
        Message("assistant", "", (CALL,)),
    )
    sent = body(name, asking(*history, Message("user", "  "), tools=(WEATHER,)))
    said = sent.get("messages") or sent["contents"]
    assert said
    if name.startswith(("anthropic", "google", "bedrock")):
        assert said[0]["role"] == "user"
        assert all(one["role"] != two["role"] for one, two in itertools.pairwise(said))


def test_tools_that_are_not_to_be_called_are_sent_where_the_history_has_calls() -> None:
    none = Calling("none")
    assert "tools" not in body("openai/m", asking(tools=(WEATHER,), calling=none))
    used = body("openai/m", replace(talked("openai"), calling=none))
    assert used["tool_choice"] == "none"
    assert used["tools"]


SHOWN = Message(
    "user",
    "This: or that?",
    images=(Image(url="data:image/png;base64,QUJD", detail="low", rest=9), Image(url="data:image/jpeg;base64,REVG")),
)
"""A picture after the first word, and another at the end."""
AT_AN_ADDRESS = Message("user", "What is it?", images=(Image(url="https://example.com/cat.png", rest=11),))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "openai/gpt-4o",
            [
                {"type": "text", "text": "This:"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD", "detail": "low"}},
                {"type": "text", "text": " or that?"},
                {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,REVG"}},
            ],
        ),
        (
            "anthropic/claude-sonnet-4-5",
            [
                {"type": "text", "text": "This:"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
                {"type": "text", "text": " or that?"},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/jpeg", "data": "REVG"},
                    "cache_control": {"type": "ephemeral"},
                },
            ],
        ),
        (
            "google/gemini-2.5-flash",
            [
                {"text": "This:"},
                {"inlineData": {"mimeType": "image/png", "data": "QUJD"}},
                {"text": " or that?"},
                {"inlineData": {"mimeType": "image/jpeg", "data": "REVG"}},
            ],
        ),
        (
            "bedrock/anthropic.claude",
            [
                {"text": "This:"},
                {"image": {"format": "png", "source": {"bytes": "QUJD"}}},
                {"text": " or that?"},
                {"image": {"format": "jpeg", "source": {"bytes": "REVG"}}},
            ],
        ),
    ],
)
def test_pictures_are_shown_in_their_places_as_each_format_has_them(name: str, wanted: list[dict[str, Any]]) -> None:
    sent = body(name, asking(SHOWN))
    (turn,) = sent.get("messages") or sent["contents"]
    assert (turn.get("content") or turn["parts"]) == wanted
    if name.startswith("openai"):
        assert body("azure/mine", asking(SHOWN))["messages"] == sent["messages"]


def test_an_address_is_given_to_who_fetches_and_refused_for_who_does_not() -> None:
    (openai,) = body("openai/gpt-4o", asking(AT_AN_ADDRESS))["messages"]
    assert openai["content"][0]["image_url"] == {"url": "https://example.com/cat.png"}
    (claude,) = body("anthropic/claude-sonnet-4-5", asking(AT_AN_ADDRESS))["messages"]
    assert claude["content"][0] == {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.png"}}
    for name in ("google/gemini-2.5-flash", "bedrock/anthropic.claude"):
        with pytest.raises(ProviderFailed, match=r"messages: .* fetches no images") as refused:
            body(name, asking(AT_AN_ADDRESS))
        assert (refused.value.problem.field, refused.value.elsewhere) == ("messages", False)


@pytest.mark.parametrize("name", ["deepseek/deepseek-chat", "openai/gpt-4o"])
def test_a_picture_that_a_model_could_not_be_shown_is_refused_and_not_left_out(name: str) -> None:
    message = SHOWN if name.startswith("deepseek") else Message("assistant", "See:", images=SHOWN.images)
    with pytest.raises(ProviderFailed, match=r"messages: .* images") as refused:
        body(name, asking("hi", message))
    assert refused.value.problem.kind == "invalid"


def test_a_turn_with_a_picture_alone_is_none_that_says_nothing_and_joined_turns_keep_their_places() -> None:
    alone = Message("user", "", images=(Image(url="data:image/png;base64,QUJD"),))
    (turn,) = body("mistral/pixtral", asking(alone, "And this?"), alternate=True)["messages"]
    assert turn["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
        {"type": "text", "text": "\n\nAnd this?"},
    ]
