"""OpenAI's Responses, for models that speak nothing else, and whoever is compatible: nothing is stored there.

What a model thought goes back to it in the same place of the same turn, sealed as it came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from actors.models.forms import in_words
from actors.models.history import repaired
from actors.models.provider import ModelCall
from actors.models.registry import Reached
from actors.models.wires.chat import function_of, schema_of
from actors.models.wires.failures import unheeded
from actors.models.wires.heard import Heard
from actors.models.wires.outputs import APART, ItemSeal, ResponsesReader
from actors.models.wires.turns import Part, said_and_shown
from actors.models.wires.wire import Request, check, merged
from schemas.messages import Image, Message, Thought

_KNOWS = frozenset({"structured"})
_ELSEWHERE = (("reasoning_effort", "reasoning", "effort"), ("verbosity", "text", "verbosity"))
"""Options by their names in chat completions, and where they are here."""


class ResponsesWire:
    """The format."""

    def request(self, call: ModelCall, reached: Reached) -> Request:
        """Write a call as a request."""
        check(call, reached, _KNOWS)
        if call.stop:
            raise unheeded(reached.name, "stop", "knows no texts to stop at: leave it out")
        body: dict[str, Any] = {
            "model": reached.model,
            "input": _input(call, reached),
            "stream": True,
            "store": False,
            **_sampling(call, reached),
            **_tools(call, reached),
            **_form(call, reached),
        }
        body = merged(body, _renamed(call.options))
        # Azure has it where no deployment is named
        path = "/openai/v1/responses" if reached.provider.wire == "azure" else "/responses"
        return Request(reached.url + path, msgspec.json.encode(body), {"content-type": "application/json"})

    def reader(self, call: ModelCall, reached: Reached) -> ResponsesReader:
        """Begin to read the answer."""
        return ResponsesReader(Heard(_origin(reached), call.request), reached)


def _origin(reached: Reached) -> str:
    return reached.name.partition("/")[0]


def _renamed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Give options that have their names of chat completions their names here."""
    told = dict(options)
    for name, outer, inner in _ELSEWHERE:
        if name in told:
            told = merged({outer: {inner: told.pop(name)}}, told)
    return told


def _input(call: ModelCall, reached: Reached) -> list[Part]:
    items = [item for message in repaired(call.messages, reached.provider) for item in _items(message, reached)]
    structured = call.sampling.structured
    if structured is not None and structured.kind == "json_schema" and reached.provider.structured == "object":
        items.insert(0, {"role": "system", "content": in_words(structured.text)})
    return items


def _items(message: Message, reached: Reached) -> list[Part]:
    if message.role == "tool":
        return [{"type": "function_call_output", "call_id": message.tool_call_id, "output": message.content}]
    if message.role == "assistant":
        return _answered(message, _origin(reached))
    if message.images:
        return [{"role": message.role, "content": [_part(told) for told in said_and_shown(message)]}]
    return [{"role": message.role, "content": message.content}]


def _part(told: str | Image) -> Part:
    if isinstance(told, str):
        return {"type": "input_text", "text": told}
    return {"type": "input_image", "image_url": told.url, "detail": told.detail or "auto"}


def _answered(message: Message, origin: str) -> list[Part]:
    """Write a turn of the model's as the items that it was.

    An item of reasoning is refused where what it led to is not there: the text behind it, or its call.
    """
    items, waiting, phase, said = list[Part](), list[Part](), "", 0
    of_calls: dict[str, list[Part]] = {}

    def say(text: str) -> None:
        if text.strip():
            items.extend(waiting)
            items.append({"role": "assistant", "content": text, **({"phase": phase} if phase else {})})
        waiting.clear()

    for thought, seal, item in _sealed(message, origin):
        if thought.call_id:
            of_calls.setdefault(thought.call_id, []).append(item)
            continue
        if thought.after > said:
            say(message.content[said : thought.after].removesuffix(APART))
            said = thought.after
        if seal.phase:
            phase = seal.phase
        else:
            waiting.append(item)
    say(message.content[said:])
    for call in message.tool_calls:
        items += of_calls.get(call.id, [])
        called = {"call_id": call.id, "name": call.name, "arguments": call.arguments or "{}"}
        items.append({"type": "function_call", **called})
    return items


def _sealed(message: Message, origin: str) -> Iterator[tuple[Thought, ItemSeal, Part]]:
    """Go through what is to go back, with the item of reasoning that it makes; what was changed since does not."""
    begun = 0
    for thought in message.thoughts:
        text = message.reasoning[begun : begun + thought.length]
        begun += thought.length
        if thought.origin != origin or thought.kind != "sealed" or len(text) < thought.length:
            continue
        seal = msgspec.json.decode(thought.seal, type=ItemSeal)
        item: Part = {"type": "reasoning", "id": seal.id, "summary": []}
        if seal.plain:
            item["content"] = [{"type": "reasoning_text", "text": text}]
        elif text:
            item["summary"] = [{"type": "summary_text", "text": text}]
        if seal.encrypted_content:
            item["encrypted_content"] = seal.encrypted_content
        yield thought, seal, item


def _sampling(call: ModelCall, reached: Reached) -> dict[str, Any]:
    sampling, include = call.sampling, list[str]()
    shown: dict[str, Any] = {"max_output_tokens": sampling.max_tokens}
    if reached.provider.tempered(reached.model):
        shown["temperature"] = sampling.temperature
        shown |= {"top_p": sampling.top_p} if sampling.top_p != 1 else {}
    else:
        include.append("reasoning.encrypted_content")  # who takes no temperature thinks
    if sampling.logprobs is not None:
        include.append("message.output_text.logprobs")
        shown |= {"top_logprobs": sampling.logprobs} if sampling.logprobs else {}
    return shown | ({"include": include} if include else {})


def _tools(call: ModelCall, reached: Reached) -> dict[str, Any]:
    used = any(message.tool_calls for message in call.messages)
    if not call.tools or (call.calling.choice == "none" and not used):
        return {}
    # what is not said to be loose is strict here
    tools = [{"type": "function", "strict": False, **function_of(tool, reached.provider)} for tool in call.tools]
    shown: dict[str, Any] = {"tools": tools}
    if call.calling.tool:
        shown["tool_choice"] = {"type": "function", "name": call.calling.tool}
    elif call.calling.choice != "auto":
        shown["tool_choice"] = call.calling.choice
    if reached.provider.parallel and not call.calling.parallel:
        shown["parallel_tool_calls"] = False
    return shown


def _form(call: ModelCall, reached: Reached) -> dict[str, Any]:
    wanted, kind = call.sampling.structured, reached.provider.structured
    if wanted is None:
        return {}
    if wanted.kind not in {"json_schema", "json_object"} or kind == "none":
        raise unheeded(reached.name, wanted.field, "cannot bind an answer to this: give a JSON schema, or no form")
    if wanted.kind == "json_object" or kind == "object":
        return {"text": {"format": {"type": "json_object"}}}
    return {"text": {"format": {"type": "json_schema", **schema_of(wanted, reached)}}}
