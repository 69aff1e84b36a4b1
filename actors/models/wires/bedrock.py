"""AWS Bedrock's Converse, whose stream is AWS's own event stream: read by AWS's own library."""

from __future__ import annotations

import importlib
from typing import Any
from urllib.parse import quote

import msgspec

from actors.errors import CallFailed
from actors.models.parameters import fitted
from actors.models.provider import ModelAnswer, ModelCall, Piece
from actors.models.registry import Reached
from actors.models.wires.anthropic import FINISHES, Blocks
from actors.models.wires.failures import broken, in_stream, unheeded
from actors.models.wires.heard import Heard, counted
from actors.models.wires.turns import Part, arguments_of, inline, said_and_shown, thought_and_said, turns
from actors.models.wires.wire import Request, check, merged
from schemas.messages import Image, Message, Usage
from schemas.runs import Problem

_KNOWS: frozenset[str] = frozenset()
_WITHHELD = frozenset({"guardrail_intervened", "content_filtered"})


class BedrockWire:
    """The format."""

    def request(self, call: ModelCall, reached: Reached) -> Request:
        """Write a call as a request."""
        check(call, reached, _KNOWS)
        origin = reached.name.partition("/")[0]
        system, said = turns(call.messages, reached.provider, lambda message: _parts(message, origin))
        inference: dict[str, Any] = {"maxTokens": call.sampling.max_tokens}
        if call.stop:
            inference["stopSequences"] = list(call.stop)
        if reached.provider.tempered(reached.model):
            if call.sampling.top_p == 1:
                inference["temperature"] = min(call.sampling.temperature, 1.0)
            else:
                inference["topP"] = call.sampling.top_p
        body: dict[str, Any] = {
            "messages": [{"role": speaker, "content": parts} for speaker, parts in said],
            "inferenceConfig": inference,
            **_tools(call, reached),
        }
        if system.strip():
            body["system"] = [{"text": system}]
        body = merged(body, dict(call.options))
        url = f"{reached.url}/model/{quote(reached.model, safe='')}/converse-stream"
        headers = {"content-type": "application/json", "accept": "application/vnd.amazon.eventstream"}
        return Request(url, msgspec.json.encode(body), headers)

    def reader(self, call: ModelCall, reached: Reached) -> BedrockReader:
        """Begin to read the answer."""
        return BedrockReader(Heard(reached.name.partition("/")[0], call.request), reached)


def _parts(message: Message, origin: str) -> list[Part]:
    if message.role == "tool":
        result = {"toolUseId": message.tool_call_id, "content": [{"text": message.content or "(nothing)"}]}
        return [{"toolResult": {**result, "status": "error"} if message.content.startswith("error:") else result}]
    if message.role == "user":
        return [_said(told, origin) for told in said_and_shown(message)]
    parts: list[Part] = []
    for told in thought_and_said(message, origin):
        if isinstance(told, str):
            parts += [{"text": told}] if told.strip() else []
        elif told[0].kind == "sealed":
            parts.append({"reasoningContent": {"redactedContent": told[0].seal}})
        else:
            sealed = {"signature": told[0].seal} if told[0].seal else {}
            parts.append({"reasoningContent": {"reasoningText": {"text": told[1], **sealed}}})
    for call in message.tool_calls:
        used = {"toolUseId": call.id, "name": call.name, "input": arguments_of(call.arguments)}
        parts.append({"toolUse": used})
    return parts


def _said(told: str | Image, origin: str) -> Part:
    if isinstance(told, str):
        return {"text": told}
    kind, data = inline(told, origin)
    return {"image": {"format": kind.rpartition("/")[2], "source": {"bytes": data}}}


def _tools(call: ModelCall, reached: Reached) -> dict[str, Any]:
    used = any(message.tool_calls for message in call.messages)
    if not call.tools or (call.calling.choice == "none" and not used):
        return {}
    kind = reached.provider.schema
    tools = []
    for tool in call.tools:
        schema = {"json": fitted(tool.parameters, kind, strict=tool.strict)}
        tools.append(
            {"toolSpec": {"name": tool.name, "description": tool.description or tool.name, "inputSchema": schema}}
        )
    config: dict[str, Any] = {"tools": tools}
    if call.calling.tool:
        config["toolChoice"] = {"tool": {"name": call.calling.tool}}
    elif call.calling.choice == "required":
        config["toolChoice"] = {"any": {}}
    return {"toolConfig": config}


class BedrockReader:
    """Reads a stream of AWS's event messages."""

    def __init__(self, heard: Heard, reached: Reached) -> None:
        try:
            self._library: Any = importlib.import_module("botocore.eventstream")
        except ImportError:
            message = "provider 'bedrock' needs botocore: pip install 'ostinato[bedrock]'"
            raise CallFailed(Problem(kind="key", message=message)) from None
        self.heard = heard
        self._name = reached.name
        self._buffer = self._library.EventStreamBuffer()
        self._blocks = Blocks(heard)

    def feed(self, data: bytes) -> list[Piece]:
        """Take bytes."""
        self._buffer.add_data(data)
        try:
            messages = list(self._buffer)
        except self._library.ParserError as error:
            raise broken(self._name, f"its stream is damaged ({type(error).__name__})") from None
        return [piece for message in messages for piece in self._message(message)]

    def end(self) -> ModelAnswer:
        """Give the whole."""
        return self.heard.answer(self._name)

    def _message(self, message: Any) -> list[Piece]:
        headers: dict[str, Any] = message.headers
        self.heard.events += 1
        told = msgspec.json.decode(message.payload) if message.payload else {}
        if headers.get(":message-type") in {"exception", "error"}:
            code = headers.get(":exception-type") or headers.get(":error-code") or ""
            said = told.get("message") or headers.get(":error-message") or ""
            raise in_stream(self._name, {"type": code, "message": said})
        if headers.get(":event-type") == "metadata":
            self.heard.usage = _usage(counted(told.get("usage")))
            self.heard.over = self.heard.finish is not None
            return []
        if self.heard.finish is not None:
            return []  # a stream that is told twice
        return self._heed(headers.get(":event-type"), told)

    def _heed(self, kind: Any, told: dict[str, Any]) -> list[Piece]:
        match kind:
            case "contentBlockStart":
                used = (told.get("start") or {}).get("toolUse")
                if used is not None:
                    block = {"type": "tool_use", "id": used.get("toolUseId"), "name": used.get("name")}
                    return self._blocks.begin(told["contentBlockIndex"], block)
            case "contentBlockDelta":
                return self._delta(told["contentBlockIndex"], told["delta"])
            case "contentBlockStop":
                self._blocks.close(told["contentBlockIndex"])
            case "messageStop":
                reason = told.get("stopReason")
                if reason in _WITHHELD:
                    raise unheeded(self._name, "messages", f"withheld its answer ({reason})")
                self.heard.finish = FINISHES.get(str(reason), "stop")
            case _:
                pass
        return []

    def _delta(self, index: int, delta: Part) -> list[Piece]:
        """Hear more of a block; those that are no tool's begin without being opened."""
        blocks = self._blocks
        match delta:
            case {"text": str(text)}:
                return blocks.begin(index, {"type": "text"}) + blocks.go_on(index, {"type": "text_delta", "text": text})
            case {"toolUse": {"input": str(arguments)}}:
                return blocks.go_on(index, {"type": "input_json_delta", "partial_json": arguments})
            case {"reasoningContent": {"text": str(text)}}:
                thought = {"type": "thinking_delta", "thinking": text}
                return blocks.begin(index, {"type": "thinking"}) + blocks.go_on(index, thought)
            case {"reasoningContent": {"signature": str(seal)}}:
                seal_delta = {"type": "signature_delta", "signature": seal}
                return blocks.begin(index, {"type": "thinking"}) + blocks.go_on(index, seal_delta)
            case {"reasoningContent": {"redactedContent": str(data)}}:
                return blocks.begin(index, {"type": "redacted_thinking", "data": data})
            case _:
                return []


def _usage(told: dict[str, Any]) -> Usage:
    cached, written = told.get("cacheReadInputTokens") or 0, told.get("cacheWriteInputTokens") or 0
    return Usage(
        prompt_tokens=(told.get("inputTokens") or 0) + cached + written,
        completion_tokens=told.get("outputTokens") or 0,
        cached_tokens=cached,
    )
