"""Streams as providers really send them, by name, and what each says in our vocabulary.

Shapes are those of the providers' own documentation and of what their servers were seen to send: which fields there
are, in which order, and how text, thoughts and arguments are parted. Contents are made up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from actors.models.registry import WireName
from schemas.answers import AnswerFinish
from schemas.messages import Thought, ToolCall, Usage
from tests.actors.models.double import amazon_event, event


@dataclass(frozen=True)
class Recorded:
    """A stream and what it says."""

    provider: str
    wire: WireName
    parts: tuple[bytes, ...]
    text: str = ""
    reasoning: str = ""
    finish: AnswerFinish = "stop"
    usage: Usage = field(default_factory=Usage)
    calls: tuple[ToolCall, ...] = ()
    thoughts: tuple[Thought, ...] = ()

    @property
    def whole(self) -> bytes:
        return b"".join(self.parts)


def _chunk(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    about = {"id": "chatcmpl-9", "object": "chat.completion.chunk", "created": 1_760_000_000, "model": "m"}
    return event({**about, "choices": choices, **more})


def _fragment(index: int | None, arguments: str, identity: str = "", name: str = "", **more: Any) -> dict[str, Any]:
    function = {**({"name": name} if name else {}), "arguments": arguments}
    numbered = {} if index is None else {"index": index}
    begun = {"id": identity, "type": "function"} if identity else {}
    return {"tool_calls": [{**numbered, **begun, "function": function, **more}]}


DONE = b"data: [DONE]\n\n"

OPENAI = Recorded(
    "openai",
    "chat",
    (
        _chunk({"role": "assistant", "content": "", "refusal": None}, obfuscation="yT3"),
        _chunk({"content": "Grüß"}, usage=None),
        _chunk({"content": " Gött"}, usage=None),
        _chunk({"content": "in ☂."}, usage=None),
        _chunk({}, "stop", usage=None),
        _chunk(
            None,
            usage={
                "prompt_tokens": 1200, "completion_tokens": 40, "total_tokens": 1240,
                "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 32, "accepted_prediction_tokens": 0},
            },
        ),
        DONE,
    ),
    text="Grüß Göttin ☂.",
    usage=Usage(1200, 40, 1024, reasoning_tokens=32),
)  # fmt: skip

OPENAI_TOOLS = Recorded(
    "openai",
    "chat",
    (
        _chunk({"role": "assistant", "content": None, "tool_calls": [
            {"index": 0, "id": "call_a", "type": "function", "function": {"name": "weather", "arguments": ""}}]}),
        _chunk(_fragment(0, '{"ci')),
        _chunk(_fragment(0, 'ty":"Brest"}')),
        _chunk({"tool_calls": [
            {"index": 1, "id": "call_b", "type": "function", "function": {"name": "time", "arguments": ""}}]}),
        _chunk(_fragment(1, "{}")),
        _chunk({}, "tool_calls"),
        _chunk(None, usage={"prompt_tokens": 82, "completion_tokens": 30, "total_tokens": 112}),
        DONE,
    ),
    finish="tool_calls",
    usage=Usage(82, 30),
    calls=(ToolCall("call_a", "weather", '{"city":"Brest"}'), ToolCall("call_b", "time", "{}")),
)  # fmt: skip

DEEPSEEK = Recorded(
    "deepseek",
    "chat",
    (
        b": keep-alive\n\n",
        _chunk({"role": "assistant", "content": None, "reasoning_content": ""}),
        _chunk({"content": None, "reasoning_content": "First, "}),
        _chunk({"content": None, "reasoning_content": "think."}),
        _chunk({"content": "42", "reasoning_content": None}),
        _chunk({"content": "", "reasoning_content": None}, "stop", usage={
            "prompt_tokens": 18, "completion_tokens": 9, "total_tokens": 27, "prompt_cache_hit_tokens": 16,
            "prompt_cache_miss_tokens": 2, "prompt_tokens_details": {"cached_tokens": 16},
            "completion_tokens_details": {"reasoning_tokens": 7}}),
        DONE,
    ),
    text="42",
    reasoning="First, think.",
    usage=Usage(18, 9, 16, reasoning_tokens=7),
    thoughts=(Thought("deepseek", length=13),),
)  # fmt: skip

GROQ = Recorded(
    "groq",
    "chat",
    (
        _chunk({"role": "assistant", "content": ""}, x_groq={"id": "req_1"}),
        _chunk({"reasoning": "Hm.", "channel": "analysis"}),
        _chunk({"tool_calls": [
            {"id": "fc_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Brest"}'},
             "index": 0}]}),
        _chunk({}, "tool_calls", x_groq={"id": "req_1", "usage": {
            "queue_time": 0.02, "prompt_tokens": 132, "completion_tokens": 43, "total_tokens": 175}}),
        DONE,
    ),
    reasoning="Hm.",
    finish="tool_calls",
    usage=Usage(132, 43),
    calls=(ToolCall("fc_1", "weather", '{"city":"Brest"}'),),
    thoughts=(Thought("groq", length=3),),
)  # fmt: skip

OPENROUTER = Recorded(
    "openrouter",
    "chat",
    (
        b": OPENROUTER PROCESSING\n\n",
        _chunk({"role": "assistant", "content": "", "reasoning": "Let me ", "reasoning_details": [
            {"type": "reasoning.text", "text": "Let me ", "format": "anthropic-claude-v1", "index": 0}]}),
        _chunk({"role": "assistant", "content": "", "reasoning": "see.", "reasoning_details": [
            {"type": "reasoning.text", "text": "see.", "format": "anthropic-claude-v1", "index": 0}]}),
        _chunk({"role": "assistant", "content": "", "reasoning": None, "reasoning_details": [
            {"type": "reasoning.text", "signature": "c2ln", "format": "anthropic-claude-v1", "index": 0}]}),
        _chunk({"role": "assistant", "content": "Yes."}, native_finish_reason=None),
        _chunk({"role": "assistant", "content": ""}, "stop"),
        _chunk({"role": "assistant", "content": ""}, usage={
            "prompt_tokens": 10, "completion_tokens": 12, "total_tokens": 22, "cost": 0.0001,
            "completion_tokens_details": {"reasoning_tokens": 8}}),
        DONE,
    ),
    text="Yes.",
    reasoning="Let me see.",
    usage=Usage(10, 12, reasoning_tokens=8),
    thoughts=(Thought("openrouter", seal=json.dumps(
        {"type": "reasoning.text", "text": "Let me see.", "format": "anthropic-claude-v1", "index": 0,
         "signature": "c2ln"}, separators=(",", ":")), kind="detail"),),
)  # fmt: skip

MISTRAL = Recorded(
    "mistral",
    "chat",
    (
        _chunk({"role": "assistant", "content": ""}),
        _chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Well, "}]}]}),
        _chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "yes."}]}]}),
        _chunk({"content": "Yes."}),
        _chunk({"content": "", "tool_calls": [
            {"id": "D681PevKs", "function": {"name": "weather", "arguments": '{"city": "Brest"}'}, "index": 0}]},
            "tool_calls", usage={"prompt_tokens": 94, "total_tokens": 123, "completion_tokens": 29}),
        DONE,
    ),
    text="Yes.",
    reasoning="Well, yes.",
    finish="tool_calls",
    usage=Usage(94, 29),
    calls=(ToolCall("D681PevKs", "weather", '{"city": "Brest"}'),),
)  # fmt: skip

REPEATING = Recorded(
    "vllm",
    "chat",
    (
        _chunk({"role": "assistant", "content": ""}),
        _chunk({"role": "assistant", **_fragment(0, '{"a"', "c1", "f")}),
        _chunk({"role": "assistant", **_fragment(0, ": 1}", "c1", "f")}),
        _chunk({"role": "assistant", "tool_calls": None, "content": None}, "tool_calls"),
    ),
    finish="tool_calls",
    calls=(ToolCall("c1", "f", '{"a": 1}'),),
)
"""A server that says id and name with every fragment, and neither the cost nor that it is done."""

UNNUMBERED = Recorded(
    "ollama",
    "chat",
    (
        _chunk({"role": "assistant", "content": "", "tool_calls": [
            {"id": "call_x", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}]}),
        _chunk({"role": "assistant", "content": "", "tool_calls": [
            {"id": "call_y", "type": "function", "function": {"name": "f", "arguments": '{"a":2}'}}]}),
        _chunk({"role": "assistant", "content": ""}, "stop"),
        DONE,
    ),
    finish="tool_calls",
    calls=(ToolCall("call_x", "f", '{"a":1}'), ToolCall("call_y", "f", '{"a":2}')),
)  # fmt: skip
"""One that numbers no calls, and calls the end of calls `stop`."""

ALL_ZERO = Recorded(
    "vercel",
    "chat",
    (
        _chunk(_fragment(0, "{}", "one", "f")),
        _chunk(_fragment(0, '{"b":', "two", "g")),
        _chunk(_fragment(0, "2}")),
        _chunk({}, "tool_calls"),
    ),
    finish="tool_calls",
    calls=(ToolCall("one", "f", "{}"), ToolCall("two", "g", '{"b":2}')),
)
"""One that numbers all of them 0."""

LENGTH = Recorded(
    "openai",
    "chat",
    (
        _chunk({"content": "I was ab"}),
        _chunk(_fragment(0, '{"ci', "call_c", "weather")),
        _chunk({}, "length"),
        DONE,
    ),
    text="I was ab",
    finish="length",
)


def _block(kind: str, **more: Any) -> bytes:
    return event({"type": kind, **more}, kind)


def _start(usage: dict[str, Any]) -> bytes:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": [],
               "stop_reason": None, "stop_sequence": None, "usage": usage}  # fmt: skip
    return _block("message_start", message=message)


def _delta(index: int, kind: str, **more: Any) -> bytes:
    return _block("content_block_delta", index=index, delta={"type": kind, **more})


ANTHROPIC = Recorded(
    "anthropic",
    "anthropic",
    (
        _start({"input_tokens": 20, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 2000,
                "output_tokens": 1, "service_tier": "standard"}),
        _block("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}),
        _block("ping"),
        _delta(0, "thinking_delta", thinking="The user wants "),
        _delta(0, "thinking_delta", thinking="weather."),
        _delta(0, "signature_delta", signature="EqQBCgIYAhIM1gbcDa9GJwZA2b3h"),
        _block("content_block_stop", index=0),
        _block("content_block_start", index=1, content_block={"type": "redacted_thinking", "data": "EmwKAhgB"}),
        _block("content_block_stop", index=1),
        _block("content_block_start", index=2, content_block={"type": "text", "text": ""}),
        _delta(2, "text_delta", text="Let me "),
        _delta(2, "text_delta", text="look."),
        _block("content_block_stop", index=2),
        _block("content_block_start", index=3, content_block={
            "type": "tool_use", "id": "toolu_01T1x1fJ34qAmk2tNTrN7Up6", "name": "weather", "input": {}}),
        _delta(3, "input_json_delta", partial_json=""),
        _delta(3, "input_json_delta", partial_json='{"city":'),
        _delta(3, "input_json_delta", partial_json=' "Brest"}'),
        _block("content_block_stop", index=3),
        _block("content_block_start", index=4, content_block={
            "type": "tool_use", "id": "toolu_02", "name": "time", "input": {}}),
        _block("content_block_stop", index=4),
        _block("message_delta", delta={"stop_reason": "tool_use", "stop_sequence": None},
               usage={"output_tokens": 89}),
        _block("message_stop"),
    ),
    text="Let me look.",
    reasoning="The user wants weather.",
    finish="tool_calls",
    usage=Usage(2120, 89, 2000),
    calls=(
        ToolCall("toolu_01T1x1fJ34qAmk2tNTrN7Up6", "weather", '{"city": "Brest"}'),
        ToolCall("toolu_02", "time", "{}"),
    ),
    thoughts=(
        Thought("anthropic", 23, "EqQBCgIYAhIM1gbcDa9GJwZA2b3h"),
        Thought("anthropic", seal="EmwKAhgB", kind="sealed"),
    ),
)  # fmt: skip

MINIMAX = Recorded(
    "minimax",
    "anthropic",
    (
        _start({"input_tokens": 0, "output_tokens": 0}),
        _block("content_block_start", index=0, content_block={"type": "text", "text": "Hi"}),
        _delta(0, "text_delta", text=" there"),
        _block("content_block_stop", index=0),
        _block("message_delta", delta={"stop_reason": "end_turn"}, usage={"input_tokens": 44, "output_tokens": 5}),
        _block("message_stop"),
    ),
    text="Hi there",
    usage=Usage(44, 5),
)
"""Compatible: the prompt's cost is told at the end, and a block may begin with text."""


def _gemini(parts: list[dict[str, Any]], finish: str | None = None, **usage: int) -> bytes:
    candidate = {
        "content": {"parts": parts, "role": "model"},
        "index": 0,
        **({"finishReason": finish} if finish else {}),
    }
    text = json.dumps({"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-x"})
    return f"data: {text}\r\n\r\n".encode()


GEMINI = Recorded(
    "google",
    "gemini",
    (
        _gemini([{"text": "**Looking**\n", "thought": True}], promptTokenCount=30, totalTokenCount=50,
                thoughtsTokenCount=20),
        _gemini([{"text": "I will "}], promptTokenCount=30, candidatesTokenCount=3, totalTokenCount=53,
                thoughtsTokenCount=20),
        _gemini([{"text": "look."}], promptTokenCount=30, candidatesTokenCount=5, totalTokenCount=55),
        _gemini([{"functionCall": {"name": "weather", "args": {"city": "Brest"}, "id": "fn_1"},
                  "thoughtSignature": "CiQB"},
                 {"functionCall": {"name": "weather", "args": {"city": "Nantes"}, "id": "fn_2"}}],
                "STOP", promptTokenCount=30, candidatesTokenCount=25, totalTokenCount=75, thoughtsTokenCount=20,
                cachedContentTokenCount=16),
    ),
    text="I will look.",
    reasoning="**Looking**\n",
    finish="tool_calls",
    usage=Usage(30, 45, 16, reasoning_tokens=20),
    calls=(ToolCall("fn_1", "weather", '{"city":"Brest"}'), ToolCall("fn_2", "weather", '{"city":"Nantes"}')),
    thoughts=(Thought("google", 12, "CiQB", call_id="fn_1", after=12),),
)  # fmt: skip

GEMINI_TEXT = Recorded(
    "google",
    "gemini",
    (
        _gemini([{"text": "Seven"}], promptTokenCount=5),
        _gemini([{"text": "", "thoughtSignature": "Egk="}], "STOP", promptTokenCount=5, candidatesTokenCount=1),
    ),
    text="Seven",
    usage=Usage(5, 1),
    thoughts=(Thought("google", 0, "Egk=", after=5),),
)
"""The seal comes last, with no text of its own."""

BEDROCK = Recorded(
    "bedrock",
    "bedrock",
    (
        amazon_event("messageStart", {"p": "abcdefgh", "role": "assistant"}),
        amazon_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "So, "}}}),
        amazon_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "yes."}}}),
        amazon_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {
            "reasoningContent": {"signature": "Ab="}}}),
        amazon_event("contentBlockStop", {"contentBlockIndex": 0}),
        amazon_event("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "Let "}}),
        amazon_event("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "me see."}}),
        amazon_event("contentBlockStop", {"contentBlockIndex": 1}),
        amazon_event("contentBlockStart", {"contentBlockIndex": 2, "start": {
            "toolUse": {"name": "weather", "toolUseId": "tooluse_kZJMlvQmRJ6eAyJE5GIl7Q"}}}),
        amazon_event("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": '{"city"'}}}),
        amazon_event("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": ':"Brest"}'}}}),
        amazon_event("contentBlockStop", {"contentBlockIndex": 2}),
        amazon_event("messageStop", {"stopReason": "tool_use"}),
        amazon_event("metadata", {"metrics": {"latencyMs": 900}, "usage": {
            "inputTokens": 30, "outputTokens": 60, "totalTokens": 190, "cacheReadInputTokens": 100}}),
    ),
    text="Let me see.",
    reasoning="So, yes.",
    finish="tool_calls",
    usage=Usage(130, 60, 100),
    calls=(ToolCall("tooluse_kZJMlvQmRJ6eAyJE5GIl7Q", "weather", '{"city":"Brest"}'),),
    thoughts=(Thought("bedrock", 8, "Ab="),),
)  # fmt: skip

ALL = {name.lower(): value for name, value in dict(globals()).items() if isinstance(value, Recorded)}
