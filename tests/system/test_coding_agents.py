"""Coding agents against a whole stack: several turns of Codex and of Claude Code, as their requests are."""

from __future__ import annotations

import re
from typing import Any, Final

import anthropic
import httpx
import openai
import pytest

from engine.structured.regular import regex_of_lark
from tests.engine.structured.test_regular import PATCH
from tests.system.conftest import UpProcess

pytestmark = pytest.mark.servers

MODEL: Final = "ostinato-mini"
SHELL: Final = {"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"]}
GRAMMAR: Final = {"type": "grammar", "syntax": "lark", "definition": PATCH}
OFFERED: Any = [
    {"type": "function", "name": "exec_command", "strict": False, "parameters": SHELL},
    {"type": "custom", "name": "apply_patch", "description": "Edits files.", "format": GRAMMAR},
    {"type": "web_search"},
]


def said(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def kept(item: dict[str, Any]) -> dict[str, Any]:
    """Keep an item as Codex does: without its id, and of what was thought only what is sealed."""
    dropped = {"id", "status"} | ({"content"} if item["type"] == "reasoning" else set())
    return {name: value for name, value in item.items() if name not in dropped}


def turn(client: openai.OpenAI, history: list[Any], **more: Any) -> Any:
    """Send a turn as Codex does, and keep what came; give the response."""
    asked: dict[str, Any] = {
        "model": MODEL,
        "instructions": "You are a coding agent.",
        "input": history,
        "tools": OFFERED,
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "low", "summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "service_tier": "priority",
        "prompt_cache_key": "s-1",
        "text": {"verbosity": "low"},
        "max_output_tokens": 120,
        "temperature": 0,
        **more,
    }
    with client.responses.create(**asked, stream=True) as stream:
        events: list[Any] = list(stream)
    final = events[-1].response
    assert final.status in {"completed", "incomplete"}, final.error
    done = [event.item.to_dict() for event in events if event.type == "response.output_item.done"]
    assert done == [item.to_dict() for item in final.output]
    for at, item in enumerate(final.output):
        if item.type == "custom_tool_call":
            kind = "response.custom_tool_call_input.delta"
            pieces = [event.delta for event in events if event.type == kind and event.output_index == at]
            assert "".join(pieces) == item.input
    history += map(kept, done)
    calls = [item for item in done if item["type"] in {"function_call", "custom_tool_call"}]
    history += [{"type": f"{one['type']}_output", "call_id": one["call_id"], "output": "Done."} for one in calls]
    return final


def test_codex_calls_tools_turn_after_turn_and_a_patch_keeps_to_its_grammar(stack: UpProcess) -> None:
    history: list[Any] = [{**said("Be safe."), "role": "developer"}, said("What is 12 times 34?")]
    with openai.OpenAI(api_key="k", base_url=f"{stack.url}/v1", max_retries=0) as client:
        turn(client, history)
        history.append(said("Now mend a.txt."))
        final = turn(client, history, tool_choice={"type": "custom", "name": "apply_patch"})
        patches = [item for item in final.output if item.type == "custom_tool_call"]
        assert patches
        assert all(re.fullmatch(regex_of_lark(PATCH), patch.input) for patch in patches)
        history.append(said("And list the files."))
        final = turn(client, history, tool_choice="required")
        assert any(item.type in {"function_call", "custom_tool_call"} for item in final.output)
        history.append(said("Thanks."))
        final = turn(client, history, tool_choice="none")
        assert {item.type for item in final.output} <= {"message", "reasoning"}
        assert final.service_tier == "default"


def test_a_custom_tool_s_call_is_read_back_from_the_log_and_answered(stack: UpProcess) -> None:
    with openai.OpenAI(api_key="k", base_url=f"{stack.url}/v1", max_retries=0) as client:
        chosen: Any = {"tools": OFFERED, "tool_choice": {"type": "custom", "name": "apply_patch"}}
        asked: Any = {"model": MODEL, "input": "Mend a.txt.", "max_output_tokens": 120, "parallel_tool_calls": False}
        raw = client.responses.with_raw_response.create(**asked, **chosen)
        assert raw.headers["x-ostinato-left-out"] == "web_search"
        first = raw.parse()
        assert client.responses.retrieve(first.id).to_dict() == first.to_dict()
        (call,) = [item for item in first.output if item.type == "custom_tool_call"]
        output: Any = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "Done."}
        second = client.responses.create(
            model=MODEL, input=[output], previous_response_id=first.id, tools=OFFERED, max_output_tokens=20
        )
        assert second.status in {"completed", "incomplete"}
        (item,) = client.responses.input_items.list(second.id).data
        assert (item.type, item.output) == ("custom_tool_call_output", "Done.")
        recursive = {**GRAMMAR, "definition": 'start: "(" start ")"'}
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(**asked, tools=[{**OFFERED[1], "format": recursive}])
        assert refused.value.param == "tools[0].format.definition"


CACHED: Final = {"cache_control": {"type": "ephemeral"}}


def test_claude_code_counts_and_calls_turn_after_turn(stack: UpProcess) -> None:
    history: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "What is 12 times 34?", **CACHED}]}]
    shown: Any = {
        "model": MODEL,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=a1b2c;"},
            {"type": "text", "text": "You are Claude Code.", **CACHED},
        ],
        "messages": history,
        "tools": [{"name": "exec_command", "description": "Runs.", "input_schema": SHELL, **CACHED}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "extra_query": {"beta": "true"},
        "betas": ["claude-code-20250219"],
    }
    asked: Any = {"max_tokens": 120, "metadata": {"user_id": "user_1"}, "extra_body": {"temperature": 0}}
    with anthropic.Anthropic(api_key="k", base_url=stack.url, max_retries=0) as client:
        for choice in ("any", "any", "auto"):
            counted = client.beta.messages.count_tokens(**shown).input_tokens
            with client.beta.messages.stream(**shown, **asked, tool_choice={"type": choice}) as stream:
                message = stream.get_final_message()
            usage = message.usage
            assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == counted
            calls = [block for block in message.content if block.type == "tool_use"]
            assert calls or choice == "auto"
            content = [_sent(block.to_dict()) for block in message.content] or [{"type": "text", "text": "…"}]
            results = [{"type": "tool_result", "tool_use_id": call.id, "content": "Done."} for call in calls]
            history += [
                {"role": "assistant", "content": content},
                {"role": "user", "content": [*results, {"type": "text", "text": "Go on.", **CACHED}]},
            ]


def _sent(block: dict[str, Any]) -> dict[str, Any]:
    fields = {"thinking": ("thinking", "signature"), "text": ("text",)}
    return {"type": block["type"], **{name: block[name] for name in fields.get(block["type"], ("id", "name", "input"))}}


def test_what_a_chat_calls_a_custom_tool_with_keeps_to_an_expression(stack: UpProcess) -> None:
    grammar = {"type": "grammar", "grammar": {"syntax": "regex", "definition": r"[a-z]{2,8}\n"}}
    tool = {"type": "custom", "custom": {"name": "say", "format": grammar}}
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Say hello."}],
        "tools": [tool],
        "tool_choice": {"type": "custom", "custom": {"name": "say"}},
        "parallel_tool_calls": False,
        "max_tokens": 100,
    }
    whole = httpx.post(f"{stack.url}/v1/chat/completions", json=body, timeout=60)
    assert whole.status_code == 200, whole.text
    (call,) = whole.json()["choices"][0]["message"]["tool_calls"]
    assert (call["type"], call["custom"]["name"]) == ("custom", "say")
    assert re.fullmatch(r"[a-z]{2,8}\n", call["custom"]["input"])
    counted = httpx.post(
        f"{stack.url}/tokenize", json={"messages": body["messages"], "tools": [tool]}, timeout=20
    ).json()
    assert counted["count"] == whole.json()["usage"]["prompt_tokens"]
