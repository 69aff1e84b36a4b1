"""Streams of the Responses format as OpenAI's servers and vLLM's really send them; contents are made up."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from schemas.messages import Thought, ToolCall, Usage
from tests.actors.models.double import event
from tests.actors.models.recorded import Recorded

_ABOUT = {"object": "response", "created_at": 1_760_000_000, "model": "gpt-5-codex-2025-09-15", "error": None}


def _told(*events: dict[str, Any]) -> tuple[bytes, ...]:
    """Number events, and write each with its name."""
    named = [(f"response.{told['type']}", told) for told in events]
    return tuple(
        event({**told, "type": name, "sequence_number": number}, name) for number, (name, told) in enumerate(named)
    )


def _begun() -> Iterator[dict[str, Any]]:
    response = {"id": "resp_0a1", "status": "in_progress", "output": [], "usage": None, **_ABOUT}
    yield {"type": "created", "response": response}
    yield {"type": "in_progress", "response": response}


def _message(index: int, pieces: list[str], phase: str = "") -> Iterator[dict[str, Any]]:
    about = {"item_id": f"msg_{index}", "output_index": index, "content_index": 0}
    named = {"phase": phase} if phase else {}
    item = {"id": f"msg_{index}", "type": "message", "role": "assistant", "content": [], **named}
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
    yield {"type": "output_item.added", "output_index": index, "item": {**item, "status": "in_progress"}}
    yield {"type": "content_part.added", **about, "part": part}
    for piece in pieces:
        yield {"type": "output_text.delta", **about, "delta": piece, "logprobs": [], "obfuscation": "x9"}
    whole = {**part, "text": "".join(pieces)}
    yield {"type": "output_text.done", **about, "text": whole["text"], "logprobs": []}
    yield {"type": "content_part.done", **about, "part": whole}
    done = {**item, "status": "completed", "content": [whole]}
    yield {"type": "output_item.done", "output_index": index, "item": done}


def _call(index: int, identity: str, name: str, pieces: list[str]) -> Iterator[dict[str, Any]]:
    item = {"id": f"fc_{index}", "type": "function_call", "call_id": identity, "name": name}
    about = {"item_id": f"fc_{index}", "output_index": index}
    begun = {**item, "status": "in_progress", "arguments": ""}
    yield {"type": "output_item.added", "output_index": index, "item": begun}
    for piece in pieces:
        yield {"type": "function_call_arguments.delta", **about, "delta": piece}
    yield {"type": "function_call_arguments.done", **about, "arguments": "".join(pieces)}
    whole = {**item, "status": "completed", "arguments": "".join(pieces)}
    yield {"type": "output_item.done", "output_index": index, "item": whole}


def _reasoning(index: int, sealed: str, *summaries: list[str]) -> Iterator[dict[str, Any]]:
    about = {"item_id": f"rs_{index}", "output_index": index}
    item = {"id": f"rs_{index}", "type": "reasoning"}
    # what is sealed at the beginning is not whole
    begun = {**item, "summary": [], "encrypted_content": sealed[:3]}
    yield {"type": "output_item.added", "output_index": index, "item": begun}
    for number, pieces in enumerate(summaries):
        place = {**about, "summary_index": number}
        yield {"type": "reasoning_summary_part.added", **place, "part": {"type": "summary_text", "text": ""}}
        for piece in pieces:
            yield {"type": "reasoning_summary_text.delta", **place, "delta": piece}
        yield {"type": "reasoning_summary_text.done", **place, "text": "".join(pieces)}
    summary = [{"type": "summary_text", "text": "".join(pieces)} for pieces in summaries]
    whole = {**item, "summary": summary, "encrypted_content": sealed}
    yield {"type": "output_item.done", "output_index": index, "item": whole}


def _ended(kind: str, *output: dict[str, Any], incomplete: str = "", **usage: int) -> dict[str, Any]:
    counts = {
        "input_tokens": usage.get("asked", 0),
        "input_tokens_details": {"cached_tokens": usage.get("cached", 0), "cache_write_tokens": 0},
        "output_tokens": usage.get("said", 0),
        "output_tokens_details": {"reasoning_tokens": usage.get("thought", 0)},
        "total_tokens": usage.get("asked", 0) + usage.get("said", 0),
    }
    details = {"reason": incomplete} if incomplete else None
    response = {"id": "resp_0a1", "status": kind, "output": list(output), "incomplete_details": details, **_ABOUT}
    return {"type": kind, "response": {**response, "usage": counts}}


def _with_output(events: list[dict[str, Any]], kind: str = "completed", **more: Any) -> tuple[bytes, ...]:
    output = [told["item"] for told in events if told["type"] == "output_item.done"]
    return _told(*_begun(), *events, _ended(kind, *output, **more))


TEXT = Recorded(
    "openai",
    "responses",
    _with_output(list(_message(0, ["Grüß", " Gött", "in ☂."])), asked=1200, cached=1024, said=40),
    text="Grüß Göttin ☂.",
    usage=Usage(1200, 40, 1024),
)

CODEX = Recorded(
    "openai",
    "responses",
    _with_output(
        [
            *_reasoning(0, "gAAAAAB1", ["First", ", look."], ["Then ", "tell."]),
            *_message(1, ["Let me ", "look."], "commentary"),
            *_reasoning(2, "gAAAAAB2"),
            *_call(3, "call_a", "weather", ['{"ci', 'ty":"Brest"}']),
            *_call(4, "call_b", "time", ["{}"]),
        ],
        asked=82,
        said=160,
        thought=128,
    ),
    text="Let me look.",
    reasoning="First, look.\n\nThen tell.",
    finish="tool_calls",
    usage=Usage(82, 160, reasoning_tokens=128),
    calls=(ToolCall("call_a", "weather", '{"city":"Brest"}'), ToolCall("call_b", "time", "{}")),
    thoughts=(
        Thought("openai", 24, '{"id":"rs_0","encrypted_content":"gAAAAAB1"}', "sealed"),
        Thought("openai", 0, '{"phase":"commentary"}', "sealed"),
        Thought("openai", 0, '{"id":"rs_2","encrypted_content":"gAAAAAB2"}', "sealed", call_id="call_a"),
    ),
)
"""Reasoning sealed before a text and before two calls."""

PHASES = Recorded(
    "openai",
    "responses",
    _with_output(
        [
            *_message(0, ["I look."], "commentary"),
            *_reasoning(1, "gAAAAAB3"),
            *_message(2, ["It ", "rains."], "final_answer"),
            *_reasoning(3, "gAAAAAB4"),
        ],
        asked=9,
        said=9,
    ),
    text="I look.\n\nIt rains.",
    usage=Usage(9, 9),
    thoughts=(
        Thought("openai", 0, '{"phase":"commentary"}', "sealed"),
        Thought("openai", 0, '{"id":"rs_1","encrypted_content":"gAAAAAB3"}', "sealed", after=9),
        Thought("openai", 0, '{"phase":"final_answer"}', "sealed", after=9),
    ),
)
"""Two messages; what is thought after the last one leads to nothing."""


def _thinking_aloud() -> Iterator[dict[str, Any]]:
    about = {"item_id": "msg_r", "output_index": 0}
    item = {"id": "rs_v", "type": "reasoning", "summary": [], "encrypted_content": None}
    yield {"type": "output_item.added", "output_index": 0, "item": {**item, "content": None, "status": "in_progress"}}
    for piece in ("Use the ", "tool."):
        yield {"type": "reasoning_text.delta", **about, "content_index": 0, "delta": piece}
    text = [{"type": "reasoning_text", "text": "Use the tool."}]
    yield {"type": "reasoning_text.done", **about, "content_index": 0, "text": "Use the tool."}
    yield {"type": "output_item.done", "output_index": 0, "item": {**item, "content": text, "status": "completed"}}


OPEN_MODEL = Recorded(
    "vllm",
    "responses",
    _with_output([*_thinking_aloud(), *_call(1, "call_9", "weather", ['{"city":"Brest"}'])], asked=70, said=20),
    reasoning="Use the tool.",
    finish="tool_calls",
    usage=Usage(70, 20),
    calls=(ToolCall("call_9", "weather", '{"city":"Brest"}'),),
    thoughts=(Thought("vllm", 13, '{"id":"rs_v","plain":true}', "sealed", call_id="call_9"),),
)
"""A server of one's own, whose model thinks aloud."""

CUT_SHORT = Recorded(
    "openai",
    "responses",
    _with_output(
        [*_reasoning(0, "gAAAAAB5"), *_message(1, ["It "])],
        "incomplete",
        incomplete="max_output_tokens",
        asked=5,
        said=64,
    ),
    text="It ",
    finish="length",
    usage=Usage(5, 64),
    thoughts=(Thought("openai", 0, '{"id":"rs_0","encrypted_content":"gAAAAAB5"}', "sealed"),),
)

WHOLE_AT_THE_END = Recorded(
    "openai",
    "responses",
    _told(
        *_begun(),
        _ended(
            "completed",
            *(
                told["item"]
                for told in itertools.chain(
                    _reasoning(0, "gAAAAAB6", ["So."]), _message(1, ["It rains."]), _call(2, "call_z", "time", ["{}"])
                )
                if told["type"] == "output_item.done"
            ),
            asked=5,
            said=6,
        ),
    ),
    text="It rains.",
    reasoning="So.",
    finish="tool_calls",
    usage=Usage(5, 6),
    calls=(ToolCall("call_z", "time", "{}"),),
    thoughts=(Thought("openai", 3, '{"id":"rs_0","encrypted_content":"gAAAAAB6"}', "sealed"),),
)
"""A gateway that told nothing as it came."""

ALL = {f"responses_{name.lower()}": value for name, value in dict(globals()).items() if isinstance(value, Recorded)}
