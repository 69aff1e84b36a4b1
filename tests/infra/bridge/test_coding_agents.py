"""Coding agents as their requests are: several turns of Codex over responses, and of Claude Code over messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import anthropic
import httpx2
import openai
import pytest

from schemas.commands import Command, Generate
from schemas.live import Frame
from schemas.messages import Message, Thought, ToolCall
from tests.engine.structured.test_regular import GOOD, PATCH
from tests.infra.bridge.doors import Scripted, accepted, called, returned, said, thought

Turn = Callable[[Command], list[Frame]]

FUNCTION: Final = {"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"]}
LS, CAT = '{"cmd": "ls -la"}', '{"cmd": "cat a.txt"}'


def looks(command: Command) -> list[Frame]:
    """Think, say something, and look at two things at once."""
    calls = (ToolCall("call_0", "exec_command", LS), ToolCall("call_1", "exec_command", CAT))
    return [
        accepted(command),
        *thought(command, "First ", "I look."),
        *said(command, "I look ", "around."),
        *called(command, 0, "call_0", "exec_command", *LS),
        *called(command, 1, "call_1", "exec_command", CAT),
        returned(command, "I look around.", "tool_calls", tool_calls=calls, reasoning="First I look."),
    ]


def patches(command: Command) -> list[Frame]:
    """Think, and write a patch, without a word."""
    arguments = json.dumps({"input": GOOD[1]})
    call = ToolCall("call_2", "apply_patch", arguments)
    return [
        accepted(command),
        *thought(command, "Now I patch."),
        *called(command, 0, "call_2", "apply_patch", *arguments),
        returned(command, "", "tool_calls", tool_calls=(call,), reasoning="Now I patch."),
    ]


def ends(command: Command) -> list[Frame]:
    return [accepted(command), *said(command, "Do", "ne."), returned(command, "Done.")]


def in_turn(*turns: Turn) -> Turn:
    """Answer one after another."""
    waiting = iter(turns)

    def answer(command: Command) -> list[Frame]:
        return next(waiting)(command)

    return answer


class Codex:
    """What it does between a user and a model: it keeps all items itself, and sends them all, without their ids."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *turns: Turn) -> None:
        self.door = Scripted(monkeypatch, in_turn(*turns))
        headers = {"originator": "codex_cli_rs", "session_id": "s-1", "user-agent": "codex_cli_rs/0.99.0"}
        self.sdk = openai.OpenAI(
            api_key="k",
            base_url="http://door/v1",
            http_client=self.door.http(),
            default_headers=headers,
            max_retries=0,
        )
        self.history: list[Any] = [_said("developer", "Be safe."), _said("user", "<environment_context/>")]
        self.events: list[Any] = []
        """Of the last turn."""

    def turn(self, *items: dict[str, Any]) -> list[dict[str, Any]]:
        """Send what is new; give what came, as it is kept."""
        self.history += items
        with self.sdk.responses.create(**self.body()) as stream:
            self.events = list(stream)
        done = [event.item.to_dict() for event in self.events if event.type == "response.output_item.done"]
        assert done == [item.to_dict() for item in self.events[-1].response.output]
        self.history += [_kept(item) for item in done]
        return done

    def body(self) -> dict[str, Any]:
        """Write a request as it does."""
        grammar = {"type": "grammar", "syntax": "lark", "definition": PATCH}
        return {
            "model": "m",
            "instructions": "You are a coding agent.",
            "input": self.history,
            "tools": [
                {"type": "function", "name": "exec_command", "strict": False, "parameters": FUNCTION},
                {"type": "function", "name": "update_plan", "strict": False, "parameters": {"type": "object"}},
                {"type": "custom", "name": "apply_patch", "description": "Edits files.", "format": grammar},
                {"type": "web_search", "external_web_access": False},
                {"type": "namespace", "name": "mcp__docs__", "description": "", "tools": []},
            ],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "reasoning": {"effort": "medium", "summary": "auto"},
            "store": False,
            "stream": True,
            "include": ["reasoning.encrypted_content"],
            "service_tier": "priority",
            "prompt_cache_key": "s-1",
            "text": {"verbosity": "low"},
            "extra_body": {"client_metadata": {"x-codex-installation-id": "i-1"}},
        }

    @property
    def asked(self) -> Generate:
        assert isinstance(self.door.asked, Generate)
        return self.door.asked


def _said(role: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def _kept(item: dict[str, Any]) -> dict[str, Any]:
    """Keep an item as it does: without its id, and of what was thought only what is sealed."""
    dropped = {"id", "status"} | ({"content"} if item["type"] == "reasoning" else set())
    return {name: value for name, value in item.items() if name not in dropped}


def _output(kind: str, call: str, text: str) -> dict[str, Any]:
    return {"type": f"{kind}_output", "call_id": call, "output": text}


def test_codex_looks_patches_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    codex = Codex(monkeypatch, looks, patches, ends, ends)
    thinking, message, *calls = codex.turn(_said("user", "Mend a.txt."))
    assert (thinking["type"], message["content"][0]["text"]) == ("reasoning", "I look around.")
    told = [(call["type"], call["call_id"], call["arguments"]) for call in calls]
    assert told == [("function_call", "call_0", LS), ("function_call", "call_1", CAT)]
    asked = codex.asked
    assert [tool.name for tool in asked.tools] == ["exec_command", "update_plan", "apply_patch"]
    assert [tool.strict for tool in asked.tools] == [False, False, True]
    assert (asked.tool_choice, asked.parallel_tool_calls) == ("auto", True)
    assert asked.chat_template_kwargs == {"reasoning_effort": "medium", "verbosity": "low"}
    first = [Message("system", "You are a coding agent."), Message("system", "Be safe.")]
    first += [Message("user", "<environment_context/>"), Message("user", "Mend a.txt.")]
    assert list(asked.messages) == first

    outputs = [_output("function_call", name, text) for name, text in (("call_0", "a.txt"), ("call_1", "x"))]
    thinking, call = codex.turn(*outputs)
    looked = (ToolCall("call_0", "exec_command", LS), ToolCall("call_1", "exec_command", CAT))
    second = [*first, Message("assistant", "I look around.", looked, None, "First I look.")]
    second += [Message("tool", "a.txt", tool_call_id="call_0"), Message("tool", "x", tool_call_id="call_1")]
    assert list(codex.asked.messages) == second
    assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", "apply_patch", GOOD[1])
    kind = "response.custom_tool_call_input"
    assert "".join(event.delta for event in codex.events if event.type == f"{kind}.delta") == GOOD[1]
    assert [event.input for event in codex.events if event.type == f"{kind}.done"] == [GOOD[1]]

    (message,) = codex.turn(_output("custom_tool_call", "call_2", "Success."))
    patched, result = codex.asked.messages[-2:]
    assert (patched.reasoning, patched.content) == ("Now I patch.", "")
    assert [json.loads(call.arguments) for call in patched.tool_calls] == [{"input": GOOD[1]}]
    assert result == Message("tool", "Success.", tool_call_id="call_2")
    final = codex.events[-1].response
    assert (final.status, final.service_tier, final.usage.total_tokens) == ("completed", "default", 15)
    assert [tool.to_dict() for tool in final.tools][2] == codex.body()["tools"][2]
    with pytest.raises(openai.NotFoundError):
        codex.sdk.responses.retrieve(final.id)

    codex.turn(_said("user", "Thanks."))
    assert [one.content for one in codex.asked.messages[-2:]] == ["Done.", "Thanks."]
    assert len(codex.asked.messages) == len(second) + 4


def test_its_stream_is_one_that_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes by the names of events, waits for the last, and takes an item when that is done."""
    codex = Codex(monkeypatch, patches)
    codex.turn(_said("user", "Mend a.txt."))
    assert [event.sequence_number for event in codex.events] == list(range(len(codex.events)))
    kinds = [event.type for event in codex.events]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    names = {event.output_index: set[str]() for event in codex.events if hasattr(event, "output_index")}
    for event in codex.events:
        if hasattr(event, "item_id"):
            names[event.output_index].add(event.item_id)
        elif hasattr(event, "item"):
            names[event.output_index].add(event.item.id)
    final = codex.events[-1].response
    assert names == {at: {item.id} for at, item in enumerate(final.output)}


CLAUDE_TOOLS: Any = [
    {
        "name": name,
        "description": "Runs.",
        "input_schema": {"$schema": "https://json-schema.org/draft/2020-12/schema", **FUNCTION},
    }
    for name in ("exec_command", "apply_patch")
]
CACHED: Any = {"cache_control": {"type": "ephemeral"}}
THOUGHTS = (Thought("claude", 13, "seal"),)


class ClaudeCode:
    """What it does between a user and a model: it sends all blocks again, as they came."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *turns: Turn) -> None:
        self.door = Scripted(monkeypatch, in_turn(*turns))
        self.paths: list[str] = []
        http = self.door.http()
        http.event_hooks["request"].append(self._noted)
        self.sdk = anthropic.Anthropic(api_key="k", base_url="http://door", http_client=http, max_retries=0)
        self.history: list[Any] = []

    def _noted(self, request: httpx2.Request) -> None:
        self.paths.append(str(request.url.raw_path, "ascii"))

    def turn(self, *blocks: dict[str, Any]) -> Any:
        """Send what is new; give the message that came."""
        self.history.append({"role": "user", "content": [*blocks[:-1], {**blocks[-1], **CACHED}]})
        system = ["x-anthropic-billing-header: cc_version=2.1; cch=a1b2c;", "You are Claude Code.", "Be brief."]
        with self.sdk.beta.messages.stream(
            model="m",
            max_tokens=32_000,
            system=[{"type": "text", "text": text, **(CACHED if text[0] != "x" else {})} for text in system],
            messages=self.history,
            tools=[*CLAUDE_TOOLS[:-1], {**CLAUDE_TOOLS[-1], **CACHED}],
            thinking={"type": "enabled", "budget_tokens": 31_999},
            metadata={"user_id": "user_1_account__session_2"},
            output_config={"effort": "high"},
            extra_query={"beta": "true"},
            betas=["claude-code-20250219", "interleaved-thinking-2025-05-14"],
            extra_body={"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
        ) as stream:
            message = stream.get_final_message()
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        content = [block.to_dict() for block in message.content]
        self.history.append({"role": "assistant", "content": [_sent(block) for block in content]})
        return message

    @property
    def asked(self) -> Generate:
        assert isinstance(self.door.asked, Generate)
        return self.door.asked


def _sent(block: dict[str, Any]) -> dict[str, Any]:
    fields = {"thinking": ("thinking", "signature"), "redacted_thinking": ("data",), "text": ("text",)}
    kept = fields.get(block["type"], ("id", "name", "input"))
    return {"type": block["type"], **{name: block[name] for name in kept}}


def seals(command: Command) -> list[Frame]:
    """Look as above, with what a provider wants back of its thoughts."""
    *before, _ = looks(command)
    calls = (ToolCall("call_0", "exec_command", LS), ToolCall("call_1", "exec_command", CAT))
    more: Any = {"tool_calls": calls, "reasoning": "First I look.", "thoughts": THOUGHTS}
    return [*before, returned(command, "I look around.", "tool_calls", **more)]


def test_claude_code_looks_patches_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    claude = ClaudeCode(monkeypatch, seals, patches, ends)
    first = claude.turn({"type": "text", "text": "<system-reminder/>"}, {"type": "text", "text": "Mend a.txt."})
    assert set(claude.paths) == {"/v1/messages?beta=true"}
    assert first.stop_reason == "tool_use"
    kinds = [block.type for block in first.content if block.type != "redacted_thinking"]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"]
    asked = claude.asked
    assert asked.messages[:1] == (Message("system", "You are Claude Code.\n\nBe brief."),)
    assert asked.messages[1:] == (Message("user", "<system-reminder/>Mend a.txt."),)
    assert (asked.max_tokens, asked.thinking_token_budget) == (32_000, 31_999)
    assert asked.chat_template_kwargs == {"enable_thinking": True, "reasoning_effort": "high"}
    assert asked.note == {"user": "user_1_account__session_2"}
    assert [tool.parameters for tool in asked.tools] == [tool["input_schema"] for tool in CLAUDE_TOOLS]

    results: list[dict[str, Any]] = [
        {"type": "tool_result", "tool_use_id": "call_0", "content": [{"type": "text", "text": "a.txt"}]},
        {"type": "tool_result", "tool_use_id": "call_1", "content": "no such file", "is_error": True},
    ]
    second = claude.turn(*results, {"type": "text", "text": "<system-reminder/>"})
    assert second.content[-1].input == {"input": GOOD[1]}
    spoken, *rest = claude.asked.messages[2:]
    assert (spoken.content, spoken.reasoning, spoken.thoughts) == ("I look around.", "First I look.", THOUGHTS)
    assert [json.loads(call.arguments) for call in spoken.tool_calls] == [json.loads(LS), json.loads(CAT)]
    assert rest == [
        Message("tool", "a.txt", tool_call_id="call_0"),
        Message("tool", "error: no such file", tool_call_id="call_1"),
        Message("user", "<system-reminder/>"),
    ]

    third = claude.turn({"type": "tool_result", "tool_use_id": "call_2", "content": "Success."})
    assert (third.content[0].text, third.stop_reason) == ("Done.", "end_turn")
    assert claude.asked.messages[-2].reasoning == "Now I patch."
    assert (third.usage.input_tokens, third.usage.cache_read_input_tokens, third.usage.output_tokens) == (2, 8, 5)
