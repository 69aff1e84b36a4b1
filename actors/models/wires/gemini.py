"""Google's Gemini: `streamGenerateContent` as server-sent events."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from actors.models.parameters import fitted
from actors.models.provider import ModelCall, Piece
from actors.models.registry import Reached
from actors.models.wires.failures import broken, in_stream, unheeded
from actors.models.wires.heard import Heard, counted
from actors.models.wires.likelihoods import of_gemini
from actors.models.wires.streamed import StreamedReader
from actors.models.wires.turns import Part, arguments_of, inline, said_and_shown, thought_and_said, turns
from actors.models.wires.wire import Request, check, merged
from schemas.answers import AnswerFinish
from schemas.messages import Image, Message, Thought, Usage

_KNOWS = frozenset({"top_k", "presence_penalty", "frequency_penalty", "structured", "thinking_budget"})
_FINISHES: dict[str, AnswerFinish] = {"STOP": "stop", "MAX_TOKENS": "length"}
_WITHHELD = frozenset({
    "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY",
})  # fmt: skip
_NO_SEAL = "skip_thought_signature_validator"
"""What Google's documentation has calls carry that another model made, where a signature is wanted."""


class GeminiWire:
    """The format."""

    def request(self, call: ModelCall, reached: Reached) -> Request:
        """Write a call as a request."""
        check(call, reached, _KNOWS)
        origin = reached.name.partition("/")[0]
        names = {made.id: made.name for message in call.messages for made in message.tool_calls}
        sealed = reached.model.rpartition("/")[2].startswith("gemini-3")
        system, said = turns(
            call.messages, reached.provider, lambda message: _parts(message, origin, names, sealed=sealed)
        )
        speakers = {"user": "user", "assistant": "model"}
        body: dict[str, Any] = {
            "contents": [{"role": speakers[speaker], "parts": parts} for speaker, parts in said],
            "generationConfig": _generation(call, reached),
            **_tools(call, reached),
        }
        if system.strip():
            body["systemInstruction"] = {"parts": [{"text": system}]}
        body = merged(body, dict(call.options))
        url = f"{reached.url}/models/{quote(reached.model, safe='')}:streamGenerateContent?alt=sse"
        return Request(url, msgspec.json.encode(body), {"content-type": "application/json"})

    def reader(self, call: ModelCall, reached: Reached) -> GeminiReader:
        """Begin to read the answer."""
        return GeminiReader(Heard(reached.name.partition("/")[0], call.request), reached)


def _parts(message: Message, origin: str, names: dict[str, str], *, sealed: bool) -> list[Part]:
    if message.role == "tool":
        called = names.get(message.tool_call_id or "", "tool")
        return [{"functionResponse": {"name": called, "response": _response(message.content)}}]
    if message.role == "user":
        return [_said(told, origin) for told in said_and_shown(message)]
    parts: list[Part] = []
    for told in thought_and_said(message, origin):
        if isinstance(told, str):
            parts.append({"text": told})
        elif told[0].seal:
            # it sealed the text before it, or nothing that was said
            parts.append({**(parts.pop() if parts else {"text": ""}), "thoughtSignature": told[0].seal})
    seals = {thought.call_id: thought.seal for thought in message.thoughts if thought.origin == origin}
    for index, call in enumerate(message.tool_calls):
        part: Part = {"functionCall": {"name": call.name, "args": arguments_of(call.arguments)}}
        seal = seals.get(call.id) or (_NO_SEAL if sealed and not index else "")
        parts.append({**part, "thoughtSignature": seal} if seal else part)
    return parts


def _said(told: str | Image, origin: str) -> Part:
    if isinstance(told, str):
        return {"text": told}
    kind, data = inline(told, origin)
    return {"inlineData": {"mimeType": kind, "data": data}}


def _response(content: str) -> dict[str, Any]:
    """Give a tool's result as the object that is wanted: its own, where it is one."""
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeEncodeError):
        found = None
    if isinstance(found, dict):
        return found
    return {"error" if content.startswith("error:") else "result": content}


def _generation(call: ModelCall, reached: Reached) -> dict[str, Any]:
    sampling = call.sampling
    shown: dict[str, Any] = {"maxOutputTokens": sampling.max_tokens}
    if call.stop:
        shown["stopSequences"] = list(call.stop)
    if reached.provider.tempered(reached.model):
        shown["temperature"] = sampling.temperature
        shown |= {"topP": sampling.top_p} if sampling.top_p != 1 else {}
        shown |= {"topK": sampling.top_k} if sampling.top_k else {}
    shown |= {"presencePenalty": sampling.presence_penalty} if sampling.presence_penalty else {}
    shown |= {"frequencyPenalty": sampling.frequency_penalty} if sampling.frequency_penalty else {}
    if sampling.logprobs is not None:
        shown["responseLogprobs"] = True
        shown |= {"logprobs": sampling.logprobs} if sampling.logprobs else {}
    if reached.provider.seed:
        shown["seed"] = sampling.seed & ((1 << 31) - 1)
    thinking: dict[str, Any] = {"includeThoughts": True} if reached.provider.told(reached.model) else {}
    if sampling.thinking_budget is not None:
        thinking["thinkingBudget"] = sampling.thinking_budget
    if thinking:
        shown["thinkingConfig"] = thinking
    return shown | _form(call, reached)


def _form(call: ModelCall, reached: Reached) -> dict[str, Any]:
    wanted = call.sampling.structured
    if wanted is None:
        return {}
    if wanted.kind not in {"json_schema", "json_object"}:
        raise unheeded(reached.name, wanted.field, "can bind an answer to a JSON schema alone")
    shown: dict[str, Any] = {"responseMimeType": "application/json"}
    if wanted.kind == "json_schema":
        shown["responseSchema"] = fitted(msgspec.json.decode(wanted.text), reached.provider.schema, strict=False)
    return shown


def _tools(call: ModelCall, reached: Reached) -> dict[str, Any]:
    if not call.tools:
        return {}
    declared = []
    for tool in call.tools:
        shown: dict[str, Any] = {"name": tool.name, "description": tool.description}
        parameters = fitted(tool.parameters, reached.provider.schema, strict=tool.strict)
        declared.append({**shown, "parameters": parameters} if parameters.get("properties") else shown)
    choice: dict[str, Any] = {"mode": {"auto": "AUTO", "none": "NONE", "required": "ANY"}[call.calling.choice]}
    if call.calling.tool:
        choice = {"mode": "ANY", "allowedFunctionNames": [call.calling.tool]}
    return {"tools": [{"functionDeclarations": declared}], "toolConfig": {"functionCallingConfig": choice}}


class GeminiReader(StreamedReader):
    """Reads a stream of responses, each with some more parts."""

    def __init__(self, heard: Heard, reached: Reached) -> None:
        super().__init__(heard, reached)
        self._kept = 0
        """Characters of reasoning that a seal was about."""

    def heed(self, told: Any) -> list[Piece]:
        """Take a response."""
        if told.get("error"):
            raise in_stream(self.reached.name, told["error"])
        blocked = (told.get("promptFeedback") or {}).get("blockReason")
        if blocked:
            raise unheeded(self.reached.name, "messages", f"withheld its answer ({blocked})")
        if isinstance(told.get("usageMetadata"), dict):
            self.heard.usage = _usage(counted(told["usageMetadata"]))
        candidates = told.get("candidates")
        if not candidates or self.heard.finish is not None:
            return []  # one without an answer, or told twice
        return self._candidate(candidates[0])

    def _candidate(self, candidate: dict[str, Any]) -> list[Piece]:
        pieces: list[Piece] = []
        for part in (candidate.get("content") or {}).get("parts") or ():
            pieces += self._part(part)
        pieces = self.heard.tell(of_gemini(candidate.get("logprobsResult")), pieces)
        reason = candidate.get("finishReason")
        if reason in _WITHHELD:
            raise unheeded(self.reached.name, "messages", f"withheld its answer ({reason})")
        if reason in {"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MALFORMED_RESPONSE"}:
            raise broken(self.reached.name, f"it wrote a tool call that is none ({reason})")
        if isinstance(reason, str) and reason != "FINISH_REASON_UNSPECIFIED":
            self.heard.finish = _FINISHES.get(reason, "stop")
        return pieces

    def _part(self, part: Part) -> list[Piece]:
        heard = self.heard
        called = part.get("functionCall")
        seal = part.get("thoughtSignature") or ""
        if called is not None:
            key = heard.count
            call = heard.call(key)
            call.name_it(called.get("id") or "", called.get("name") or "")
            call.give(msgspec.json.encode(called.get("args") or {}).decode())
            if seal:
                self._seal(seal, heard.identity(key))
            return []
        text = part.get("text")
        pieces: list[Piece] = []
        if isinstance(text, str):
            pieces = heard.think(text) if part.get("thought") else heard.say(text)
        if seal:
            self._seal(seal, "")
        return pieces

    def _seal(self, seal: str, call_id: str) -> None:
        heard = self.heard
        length, self._kept = heard.thought - self._kept, heard.thought
        heard.thoughts.append(Thought(heard.origin, length, seal, call_id=call_id, after=heard.said))


def _usage(told: dict[str, Any]) -> Usage:
    thought = told.get("thoughtsTokenCount") or 0
    return Usage(
        prompt_tokens=(told.get("promptTokenCount") or 0) + (told.get("toolUsePromptTokenCount") or 0),
        completion_tokens=(told.get("candidatesTokenCount") or 0) + thought,
        cached_tokens=told.get("cachedContentTokenCount") or 0,
        reasoning_tokens=thought,
    )
