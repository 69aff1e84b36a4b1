"""Every field of vLLM's and OpenAI's requests is served, refused by its name, or one that changes no answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.bridge.completions import generations, read_completion
from infra.bridge.openai import BadRequest, command_data, read_request
from schemas.commands import Generate, RunAgent
from schemas.completions import CompletionRequest
from schemas.openai import ChatRequest

BOTH = """model frequency_penalty logit_bias logprobs max_tokens n presence_penalty response_format seed stop stream
    stream_options temperature top_p use_beam_search top_k min_p repetition_penalty watermarking length_penalty
    stop_token_ids include_stop_str_in_output ignore_eos min_tokens skip_special_tokens spaces_between_special_tokens
    truncate_prompt_tokens truncation_side prompt_logprobs logprob_token_ids allowed_token_ids bad_words
    add_special_tokens structured_outputs priority request_id session_id return_tokens_as_token_ids return_token_ids
    routed_experts_prompt_start return_token_offsets return_mm_kwargs cache_salt kv_transfer_params ec_transfer_params
    vllm_xargs repetition_detection stream_interval thinking_token_budget echo user metadata safety_identifier
    prompt_cache_key service_tier store moderation prompt_cache_retention return_weight_versions"""
CHAT = """messages top_logprobs max_completion_tokens tools tool_choice reasoning_effort include_reasoning
    parallel_tool_calls add_generation_prompt continue_final_message documents chat_template chat_template_kwargs
    media_io_kwargs mm_processor_kwargs return_prompt_text functions function_call modalities audio prediction
    web_search_options verbosity"""
COMPLETION = "prompt suffix prompt_embeds best_of"
KEPT: dict[str, Any] = {
    "user": "ada",
    "metadata": {"team": "blue"},
    "safety_identifier": "s1",
    "prompt_cache_key": "k1",
}
"""What changes no answer and is in the log."""


def test_every_field_is_known() -> None:
    assert {*BOTH.split(), *CHAT.split()} <= {*ChatRequest.__struct_fields__}
    assert {*BOTH.split(), *COMPLETION.split()} <= {*CompletionRequest.__struct_fields__}


def chat(**fields: Any) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return read_request(json.dumps(body).encode())


def completion(**fields: Any) -> CompletionRequest:
    return read_completion(json.dumps({"model": "m", "prompt": "hi", **fields}).encode())


REFUSED: dict[str, Any] = {
    "watermarking": True,
    "service_tier": "gold",
    "store": True,
    "moderation": {"model": "m"},
    "prompt_cache_retention": "24h",
    "return_weight_versions": True,
    "return_token_offsets": True,
    "return_mm_kwargs": False,
    "mm_processor_kwargs": {"a": 1},
    "kv_transfer_params": {"a": 1},
    "ec_transfer_params": {"a": 1},
    "routed_experts_prompt_start": 3,
    "add_special_tokens": True,
}


@pytest.mark.parametrize("read", [chat, completion])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_served_is_refused_by_name_with_what_can_be_done(read: Any, name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read(**{name: REFUSED[name]})
    assert (refused.value.status, refused.value.body.error.param) == (400, name)
    assert ": " in refused.value.body.error.message
    read(**{name: None})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("media_io_kwargs", {"image": {}}),
        ("return_prompt_text", True),
        ("functions", [{"name": "f"}]),
        ("function_call", "auto"),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x"}),
        ("prediction", {"type": "vision"}),
        ("prediction", "Hello!"),
        ("web_search_options", {}),
        ("verbosity", "loud"),
        ("reasoning_effort", "ultra"),
    ],
)
def test_what_chats_are_not_served_with_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(BadRequest) as refused:
        chat(**{name: value})
    assert refused.value.body.error.param == name


def test_so_is_what_stands_within_a_field() -> None:
    for read in (chat, completion):
        for name in ("continuous_usage_stats", "include_obfuscation"):
            with pytest.raises(BadRequest, match=name):
                read(stream=True, stream_options={name: True})
            read(stream=True, stream_options={name: False})
        read(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    with pytest.raises(BadRequest, match="defer_loading"):
        chat(tools=[{"type": "function", "function": {"name": "f"}, "defer_loading": True}])
    with pytest.raises(BadRequest, match="thinking_token_budget"):
        completion(thinking_token_budget=5)


def test_values_that_change_nothing_pass() -> None:
    chat(watermarking=False, return_mm_kwargs=True, add_special_tokens=False, modalities=["text"], verbosity="medium")
    for content in ("Hello!", [{"type": "text", "text": "Hello!"}]):
        chat(prediction={"type": "content", "content": content})
        chat(prediction={"type": "content", "content": content}, model="agent/demo")
    completion(routed_experts_prompt_start=0, thinking_token_budget=-1, kv_transfer_params={})
    for read in (chat, completion):
        for tier in ("auto", "default", "flex", "priority"):
            read(service_tier=tier)
        read(store=False, prompt_cache_retention="in_memory", return_weight_versions=False)


def test_what_clients_say_of_themselves_is_in_the_log() -> None:
    for data in (command_data(chat(**KEPT), None), *generations(completion(**KEPT))):
        assert isinstance(data, Generate)
        assert data.note == KEPT
    agent = command_data(chat(**KEPT, model="agent/demo"), None)
    assert isinstance(agent, RunAgent)
    assert agent.note == KEPT
    with pytest.raises(BadRequest) as refused:
        chat(metadata={"a": 1})
    assert refused.value.body.error.param == "metadata[...]"


TOOLS = [{"type": "function", "function": {"name": name}} for name in ("look", "say", "go")]


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_of_tools_only_those_that_are_allowed_are_told_of(mode: str) -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [TOOLS[2], TOOLS[0]]}}
    data = command_data(chat(tools=TOOLS, tool_choice=allowed), None)
    assert isinstance(data, Generate)
    assert ([tool.name for tool in data.tools], data.tool_choice) == (["look", "go"], mode)
    with pytest.raises(BadRequest) as refused:
        chat(tools=TOOLS[:1], tool_choice=allowed)
    assert refused.value.body.error.param == "tool_choice"


@pytest.mark.parametrize("read", [chat, completion])
@pytest.mark.parametrize(
    ("name", "value", "beside"),
    [
        ("stream_options", {"include_usage": True}, {"stream": True}),
        ("length_penalty", 2, {"use_beam_search": True}),
        ("logprob_token_ids", [5], {"prompt_logprobs": 0}),
        ("prompt_logprob_start", 3, {"prompt_logprobs": 0}),
        ("prompt_logprob_start", 3, {"prompt_logprob_token_ids": [5]}),
    ],
)
def test_what_means_nothing_without_another_field_is_refused(
    read: Any, name: str, value: object, beside: dict[str, Any]
) -> None:
    with pytest.raises(BadRequest) as refused:
        read(**{name: value})
    assert refused.value.body.error.param == name
    read(**{name: value}, **beside)


def test_tokens_are_told_by_id_beside_any_number_of_the_likeliest() -> None:
    chat(logprob_token_ids=[5], logprobs=True)
    completion(logprob_token_ids=[5], logprobs=0)
    with pytest.raises(BadRequest, match="logprob_token_ids"):
        chat(logprob_token_ids=[5], logprobs=False)
