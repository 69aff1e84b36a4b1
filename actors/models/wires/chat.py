"""OpenAI's chat completions, as OpenAI, Azure and everybody who is compatible speaks them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from actors.models.forms import in_words
from actors.models.history import last_asked, repaired
from actors.models.parameters import an_object, fitted, is_bindable
from actors.models.provider import ModelAnswer, ModelCall, Piece
from actors.models.registry import Provider, Reached
from actors.models.wires.failures import broken, in_stream, unheeded
from actors.models.wires.heard import Heard, counted
from actors.models.wires.likelihoods import of_openai
from actors.models.wires.streamed import StreamedReader
from actors.models.wires.turns import said_and_shown
from actors.models.wires.wire import Request, check, merged
from schemas.answers import AnswerFinish
from schemas.messages import Image, Message, Thought, ToolSpec, Usage
from schemas.structured import Structured

_KNOWS = frozenset({"presence_penalty", "frequency_penalty", "logit_bias", "structured"})
_FINISHES: dict[str, AnswerFinish] = {
    "stop": "stop", "eos": "stop", "end_turn": "stop", "length": "length", "max_tokens": "length",
    "model_length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls", "tool_use": "tool_calls",
}  # fmt: skip


class ChatWire:
    """The format."""

    def request(self, call: ModelCall, reached: Reached) -> Request:
        """Write a call as a request."""
        provider = reached.provider
        check(call, reached, _KNOWS | frozenset(provider.knobs))
        body: dict[str, Any] = {
            "model": reached.model,
            "messages": _messages(call, reached),
            "stream": True,
            **_sampling(call, reached),
            **_tools(call, provider),
            **_form(call, reached),
        }
        if provider.usage:
            body["stream_options"] = {"include_usage": True}
        body = merged(body, dict(call.options))
        return Request(self.address(reached), msgspec.json.encode(body), {"content-type": "application/json"})

    def address(self, reached: Reached) -> str:
        """Give where it is sent."""
        return f"{reached.url}/chat/completions"

    def reader(self, call: ModelCall, reached: Reached) -> ChatReader:
        """Begin to read the answer."""
        return ChatReader(Heard(_origin(reached), call.request), reached)


class AzureWire(ChatWire):
    """The same, where the model is a deployment of one's own."""

    def address(self, reached: Reached) -> str:
        """Give where it is sent."""
        version = reached.provider.version
        return f"{reached.url}/openai/deployments/{reached.model}/chat/completions?api-version={version}"


def _origin(reached: Reached) -> str:
    return reached.name.partition("/")[0]


def _messages(call: ModelCall, reached: Reached) -> list[dict[str, Any]]:
    messages = repaired(call.messages, reached.provider)
    asked = last_asked(messages)
    shown = [_message(message, reached, of_turn=index > asked) for index, message in enumerate(messages)]
    structured = call.sampling.structured
    if structured is not None and structured.kind == "json_schema" and reached.provider.structured == "object":
        shown.insert(0, {"role": "system", "content": in_words(structured.text)})
    return shown


def _message(message: Message, reached: Reached, *, of_turn: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        shown["content"] = [_part(told) for told in said_and_shown(message)]
    if message.role == "tool":
        shown["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        shown["content"] = message.content or None
        shown["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments or "{}"}}
            for call in message.tool_calls
        ]
    return shown | _thoughts(message, reached, of_turn=of_turn)


def _part(told: str | Image) -> dict[str, Any]:
    if isinstance(told, str):
        return {"type": "text", "text": told}
    detail = {"detail": told.detail} if told.detail else {}
    return {"type": "image_url", "image_url": {"url": told.url, **detail}}


def _thoughts(message: Message, reached: Reached, *, of_turn: bool) -> dict[str, Any]:
    """Give back what the same provider thought; as plain text only in the turn under way, where it is wanted."""
    field = reached.provider.thoughts
    own = [thought for thought in message.thoughts if thought.origin == _origin(reached)]
    if not field or not own:
        return {}
    if field == "reasoning_details":
        return {field: [msgspec.json.decode(thought.seal) for thought in own if thought.kind == "detail"]}
    return {field: message.reasoning} if of_turn and message.tool_calls and message.reasoning else {}


def _sampling(call: ModelCall, reached: Reached) -> dict[str, Any]:
    sampling, provider = call.sampling, reached.provider
    shown: dict[str, Any] = {provider.max_tokens: sampling.max_tokens}
    if call.stop:
        shown["stop"] = list(call.stop)
    if provider.tempered(reached.model):
        shown["temperature"] = sampling.temperature
        shown |= {"top_p": sampling.top_p} if sampling.top_p != 1 else {}
        shown |= {"presence_penalty": sampling.presence_penalty} if sampling.presence_penalty else {}
        shown |= {"frequency_penalty": sampling.frequency_penalty} if sampling.frequency_penalty else {}
    if sampling.logit_bias:
        shown["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.logprobs is not None:
        shown["logprobs"] = True
        shown |= {"top_logprobs": sampling.logprobs} if sampling.logprobs else {}
    if provider.seed:
        shown[provider.seed] = sampling.seed & ((1 << 31) - 1)
    plain = msgspec.structs.asdict(type(sampling)())
    return shown | {name: getattr(sampling, name) for name in provider.knobs if getattr(sampling, name) != plain[name]}


def _tools(call: ModelCall, provider: Provider) -> dict[str, Any]:
    used = any(message.tool_calls for message in call.messages)
    if not call.tools or (call.calling.choice == "none" and not used):
        return {}
    functions = [function_of(tool, provider) for tool in call.tools]
    shown: dict[str, Any] = {"tools": [{"type": "function", "function": function} for function in functions]}
    if call.calling.tool:
        shown["tool_choice"] = {"type": "function", "function": {"name": call.calling.tool}}
    elif call.calling.choice != "auto":
        shown["tool_choice"] = call.calling.choice
    if provider.parallel and not call.calling.parallel:
        shown["parallel_tool_calls"] = False
    return shown


def function_of(tool: ToolSpec, provider: Provider) -> dict[str, Any]:
    """Write a tool."""
    strict = tool.strict and _binds(tool.parameters, provider)
    parameters = fitted(tool.parameters, provider.schema, strict=strict)
    function: dict[str, Any] = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {**function, "strict": True} if strict else function


def _form(call: ModelCall, reached: Reached) -> dict[str, Any]:
    wanted = call.sampling.structured
    if wanted is None:
        return {}
    kind = reached.provider.structured
    if wanted.kind not in {"json_schema", "json_object"} or kind == "none":
        raise unheeded(reached.name, wanted.field, "cannot bind an answer to this: give a JSON schema, or no form")
    if wanted.kind == "json_object" or kind == "object":
        return {"response_format": {"type": "json_object"}}
    return {"response_format": {"type": "json_schema", "json_schema": schema_of(wanted, reached)}}


def schema_of(wanted: Structured, reached: Reached) -> dict[str, Any]:
    """Write the schema of an answer with the name that it must have."""
    whole: dict[str, Any] = msgspec.json.decode(wanted.text)
    strict = _binds(whole, reached.provider)
    schema = fitted(whole, reached.provider.schema, strict=strict)
    return {"name": "answer", "schema": schema, **({"strict": True} if strict else {})}


def _binds(schema: Mapping[str, Any], provider: Provider) -> bool:
    return provider.schema == "openai" and is_bindable(an_object(dict(schema)))


class ChatReader(StreamedReader):
    """Reads a stream of chunks."""

    def __init__(self, heard: Heard, reached: Reached) -> None:
        super().__init__(heard, reached)
        self._last: Any = None
        """The tool call that a fragment without an index goes on with."""
        self._at: dict[Any, Any] = {}
        """The tool call that each index stands for now."""
        self._details: dict[Any, dict[str, Any]] = {}
        self._declines = False
        """Whether it says why it does not answer, in place of an answer."""

    def end(self) -> ModelAnswer:
        """Give the whole."""
        heard = self.heard
        for detail in self._details.values():
            heard.thoughts.append(Thought(heard.origin, seal=msgspec.json.encode(detail).decode(), kind="detail"))
        if heard.thought and not self._details and self.reached.provider.thoughts:
            heard.thoughts.append(Thought(heard.origin, length=heard.thought))
        return super().end()

    def heed(self, chunk: Any) -> list[Piece]:
        """Take a chunk."""
        if chunk.get("error"):
            raise in_stream(self.reached.name, chunk["error"])
        usage = chunk.get("usage") or (chunk.get("x_groq") or {}).get("usage")
        if isinstance(usage, dict):
            self.heard.usage = usage_of(counted(usage))
        choices = chunk.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        return self._choice(first) if isinstance(first, dict) else []

    def _choice(self, choice: dict[str, Any]) -> list[Piece]:
        heard = self.heard
        if heard.finish is not None:
            return []  # a stream that is told twice, or goes on after its end
        delta = choice.get("delta") or choice.get("message") or {}
        pieces = heard.tell(of_openai(choice.get("logprobs")), self._thought(delta) + self._said(delta.get("content")))
        for fragment in delta.get("tool_calls") or ():
            self._call(fragment)
        self._declines |= bool(delta.get("refusal"))
        finish = choice.get("finish_reason")
        if finish and self._declines:
            raise unheeded(self.reached.name, "messages", "declined to answer (refusal)")
        if finish in {"content_filter", "safety"}:
            raise unheeded(self.reached.name, "messages", f"withheld its answer ({finish})")
        if finish in {"error", "network_error", "insufficient_system_resource"}:
            raise broken(self.reached.name, f"it broke off ({finish})")
        if isinstance(finish, str) and finish:
            heard.finish = _FINISHES.get(finish, "stop")
        return pieces

    def _said(self, content: Any) -> list[Piece]:
        if isinstance(content, str):
            return self.heard.say(content)
        pieces: list[Piece] = []
        for part in content if isinstance(content, list) else ():
            match part:
                case {"type": "text", "text": str(text)}:
                    pieces += self.heard.say(text)
                case {"type": "thinking", "thinking": list(thoughts)}:
                    for thought in thoughts:
                        pieces += self.heard.think(thought.get("text", ""))
        return pieces

    def _thought(self, delta: dict[str, Any]) -> list[Piece]:
        for detail in delta.get("reasoning_details") or ():
            self._detail(detail)
        for name in ("reasoning_content", "reasoning"):
            if isinstance(delta.get(name), str):
                return self.heard.think(delta[name])
        return []

    def _detail(self, detail: dict[str, Any]) -> None:
        """Put together what comes in fragments: texts grow, all else is as it was said last."""
        key = detail.get("index", len(self._details)), detail.get("type")
        known = self._details.setdefault(key, {})
        for name, value in detail.items():
            grows = name in {"text", "summary", "data"} and isinstance(value, str)
            known[name] = known.get(name, "") + value if grows else value if value is not None else known.get(name)

    def _call(self, fragment: dict[str, Any]) -> None:
        function = fragment.get("function") or {}
        identity, name = fragment.get("id") or "", function.get("name") or ""
        call = self.heard.call(self._key(fragment.get("index"), identity, name))
        call.name_it(identity, name)
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            call.arguments.append(arguments)
        elif isinstance(arguments, dict):
            call.give(msgspec.json.encode(arguments).decode())

    def _key(self, index: Any, identity: str, name: str) -> Any:
        """Say which call a fragment belongs to: some servers number no calls, and some number all of them 0."""
        if index is None:
            self._last = identity or (("named", self.heard.count) if name else self._last)
            return self._last
        known = self._at.get(index)
        if known is None or (identity and self.heard.call(known).id not in {"", identity}):
            self._at[index] = (index, identity)
        return self._at[index]


def usage_of(usage: dict[str, Any]) -> Usage:
    """Read what an answer cost, in the names that providers have for it."""
    prompt, answer = (usage.get(name) or {} for name in ("prompt_tokens_details", "completion_tokens_details"))
    cached = prompt.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or usage.get("cached_tokens") or 0
    return Usage(
        prompt_tokens=usage.get("prompt_tokens") or 0,
        completion_tokens=usage.get("completion_tokens") or 0,
        cached_tokens=cached,
        reasoning_tokens=answer.get("reasoning_tokens") or usage.get("reasoning_tokens") or 0,
    )
