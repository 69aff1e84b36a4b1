"""Anthropic's Messages, and whoever is compatible."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from actors.models.parameters import fitted
from actors.models.provider import ModelCall, Piece
from actors.models.registry import Reached
from actors.models.wires.failures import in_stream, unheeded
from actors.models.wires.heard import Heard, counted
from actors.models.wires.streamed import StreamedReader
from actors.models.wires.turns import Part, arguments_of, inline, said_and_shown, thought_and_said, turns
from actors.models.wires.wire import Request, check, merged
from schemas.answers import AnswerFinish
from schemas.messages import Image, Message, Thought, Usage

_KNOWS = frozenset({"top_k", "structured", "thinking_budget"})
_VERSION = "2023-06-01"
_LEAST_THINKING = 1024
"""Tokens of thinking that can be asked for at least."""
FINISHES: dict[str, AnswerFinish] = {
    "end_turn": "stop", "stop_sequence": "stop", "pause_turn": "stop", "max_tokens": "length",
    "model_context_window_exceeded": "length", "tool_use": "tool_calls",
}  # fmt: skip


class AnthropicWire:
    """The format."""

    def request(self, call: ModelCall, reached: Reached) -> Request:
        """Write a call as a request."""
        check(call, reached, _KNOWS)
        origin = reached.name.partition("/")[0]
        system, said = turns(call.messages, reached.provider, lambda message: _parts(message, origin))
        messages = [{"role": speaker, "content": parts} for speaker, parts in said]
        body: dict[str, Any] = {
            "model": reached.model,
            "messages": messages,
            "stream": True,
            **_sampling(call, reached),
            **_tools(call, reached),
            **_form(call, reached),
        }
        if system.strip():
            body["system"] = [{"type": "text", "text": system}]
        if call.read_cache:
            _mark(body)
        body = merged(body, dict(call.options))
        return self.sent(body, reached)

    def sent(self, body: dict[str, Any], reached: Reached) -> Request:
        """Say where it is sent, and with what."""
        headers = {"content-type": "application/json", "anthropic-version": reached.provider.version or _VERSION}
        return Request(f"{reached.url}/messages", msgspec.json.encode(body), headers)

    def reader(self, call: ModelCall, reached: Reached) -> AnthropicReader:
        """Begin to read the answer."""
        return AnthropicReader(Heard(reached.name.partition("/")[0], call.request), reached)


class VertexWire(AnthropicWire):
    """The same on Google's Vertex AI, where the address names the model."""

    def sent(self, body: dict[str, Any], reached: Reached) -> Request:
        """Say where it is sent, and with what."""
        whole = {"anthropic_version": reached.provider.version, **body}
        del whole["model"]
        address = f"{reached.url}/models/{quote(reached.model, safe='@')}:streamRawPredict"
        return Request(address, msgspec.json.encode(whole), {"content-type": "application/json"})


def _mark(body: dict[str, Any]) -> None:
    """Mark up to where the prompt is to be kept for the next turn: what stands first, and the whole of it."""
    marks = [body["system"][-1]] if "system" in body else []
    marks += [body["messages"][-1]["content"][-1]] if body["messages"][-1]["content"] else []
    for part in marks:
        if part.get("type") not in {"thinking", "redacted_thinking"}:
            part["cache_control"] = {"type": "ephemeral"}


def _parts(message: Message, origin: str) -> list[Part]:
    if message.role == "tool":
        failed = message.content.startswith("error:")
        result = {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": message.content or "(nothing)"}
        return [{**result, "is_error": True} if failed else result]
    if message.role == "user":
        return [_said(told) for told in said_and_shown(message)]
    parts: list[Part] = []
    for told in thought_and_said(message, origin):
        if isinstance(told, str):
            parts += [{"type": "text", "text": told}] if told.strip() else []
        elif told[0].kind == "sealed":
            parts.append({"type": "redacted_thinking", "data": told[0].seal})
        else:
            parts.append({"type": "thinking", "thinking": told[1], "signature": told[0].seal})
    for call in message.tool_calls:
        parts.append({"type": "tool_use", "id": call.id, "name": call.name, "input": arguments_of(call.arguments)})
    return parts


def _said(told: str | Image) -> Part:
    if isinstance(told, str):
        return {"type": "text", "text": told}
    if not told.url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": told.url}}
    kind, data = inline(told, "anthropic")
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}


def _sampling(call: ModelCall, reached: Reached) -> dict[str, Any]:
    sampling = call.sampling
    shown: dict[str, Any] = {"max_tokens": sampling.max_tokens}
    if call.stop:
        shown["stop_sequences"] = list(call.stop)
    if sampling.thinking_budget:
        budget = max(sampling.thinking_budget, _LEAST_THINKING)
        shown["thinking"] = {"type": "enabled", "budget_tokens": budget}
        shown["max_tokens"] = max(sampling.max_tokens, budget + 1)
        return shown  # who thinks takes no temperature
    if reached.provider.tempered(reached.model):
        # newer models take one of the two
        if sampling.top_p == 1:
            shown["temperature"] = min(sampling.temperature, 1.0)
        else:
            shown["top_p"] = sampling.top_p
        shown |= {"top_k": sampling.top_k} if sampling.top_k else {}
    return shown


def _tools(call: ModelCall, reached: Reached) -> dict[str, Any]:
    used = any(message.tool_calls for message in call.messages)
    if not call.tools or (call.calling.choice == "none" and not used):
        return {}
    kind = reached.provider.schema
    tools = [
        {
            "name": tool.name,
            "description": tool.description,
            "input_schema": fitted(tool.parameters, kind, strict=tool.strict),
        }
        for tool in call.tools
    ]
    choice: dict[str, Any] = {"type": {"auto": "auto", "none": "none", "required": "any"}[call.calling.choice]}
    if call.calling.tool:
        choice = {"type": "tool", "name": call.calling.tool}
    if not call.calling.parallel and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    return {"tools": tools, "tool_choice": choice}


def _form(call: ModelCall, reached: Reached) -> dict[str, Any]:
    wanted = call.sampling.structured
    if wanted is None:
        return {}
    if wanted.kind != "json_schema" or reached.provider.structured != "schema":
        raise unheeded(reached.name, wanted.field, "can bind an answer to a JSON schema alone, if at all")
    return {"output_config": {"format": {"type": "json_schema", "schema": msgspec.json.decode(wanted.text)}}}


class AnthropicReader(StreamedReader):
    """Reads a stream of events about blocks."""

    def __init__(self, heard: Heard, reached: Reached) -> None:
        super().__init__(heard, reached)
        self._blocks = Blocks(heard)

    def heed(self, told: Any) -> list[Piece]:
        """Take an event."""
        if self.heard.over:
            return []  # a stream that is told twice
        return self._heed(told.get("type"), told)

    def _heed(self, kind: Any, told: dict[str, Any]) -> list[Piece]:
        match kind:
            case "error":
                raise in_stream(self.reached.name, told.get("error"))
            case "message_start":
                self.heard.usage = _usage(self.heard.usage, counted(told["message"].get("usage")))
            case "content_block_start":
                return self._blocks.begin(told["index"], told["content_block"])
            case "content_block_delta":
                return self._blocks.go_on(told["index"], told["delta"])
            case "content_block_stop":
                self._blocks.close(told["index"])
            case "message_delta":
                self.heard.usage = _usage(self.heard.usage, counted(told.get("usage")))
                delta = told.get("delta") or {}
                self._finish(delta.get("stop_reason"))
                if at := delta.get("stop_sequence"):  # a later one may tell of nothing but usage
                    self.heard.stopped_at = str(at)
            case "message_stop":
                self.heard.over = True
            case _:
                pass  # pings, and what there will be one day
        return []

    def _finish(self, reason: Any) -> None:
        if reason == "refusal":
            raise unheeded(self.reached.name, "messages", "declined to answer (refusal)")
        if isinstance(reason, str):
            self.heard.finish = FINISHES.get(reason, "stop")


class Blocks:
    """The blocks of an answer, each open until it is closed: what comes for a closed one is heard no more."""

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        self._open: dict[int, str] = {}
        self._closed: set[int] = set()
        self._seals: dict[int, str] = {}
        self._began: dict[int, tuple[int, int]] = {}

    def begin(self, index: int, block: Part) -> list[Piece]:
        """Open a block."""
        if index in self._open or index in self._closed:
            return []
        kind = block.get("type", "text")
        self._open[index] = kind
        self._began[index] = (self._heard.thought, self._heard.said)
        match kind:
            case "thinking":
                self._seals[index] = block.get("signature") or ""
                return self._heard.think(block.get("thinking") or "")
            case "redacted_thinking":
                self._seals[index] = block.get("data") or ""
            case "tool_use":
                call = self._heard.call(index)
                call.name_it(block.get("id") or "", block.get("name") or "")
                if block.get("input"):
                    call.give(msgspec.json.encode(block["input"]).decode())
            case "text":
                return self._heard.say(block.get("text") or "")
            case _:
                pass
        return []

    def go_on(self, index: int, delta: Part) -> list[Piece]:
        """Hear more of a block."""
        if index not in self._open:
            return []
        match delta.get("type"):
            case "text_delta":
                return self._heard.say(delta["text"])
            case "thinking_delta":
                return self._heard.think(delta["thinking"])
            case "signature_delta":
                self._seals[index] = self._seals.get(index, "") + delta["signature"]
            case "input_json_delta" if self._open[index] == "tool_use":
                self._heard.call(index).arguments.append(delta["partial_json"])
            case _:
                pass
        return []

    def close(self, index: int) -> None:
        """Close a block."""
        kind = self._open.pop(index, None)
        self._closed.add(index)
        if kind == "thinking":
            thought, said = self._began[index]
            length = self._heard.thought - thought
            self._heard.thoughts.append(Thought(self._heard.origin, length, self._seals[index], after=said))
        elif kind == "redacted_thinking":
            seal, said = self._seals[index], self._began[index][1]
            self._heard.thoughts.append(Thought(self._heard.origin, seal=seal, kind="sealed", after=said))


def _usage(known: Usage, told: dict[str, Any]) -> Usage:
    """Read what an answer costs; a later report is the whole of it, and says only what changed."""
    fresh, cached, written = (
        told.get(name) for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )
    prompt, hits = known.prompt_tokens, known.cached_tokens
    if fresh is not None and (fresh or not prompt):
        prompt, hits = fresh + (cached or 0) + (written or 0), cached or 0
    answer = told.get("output_tokens")
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=known.completion_tokens if answer is None else answer,
        cached_tokens=hits,
    )
