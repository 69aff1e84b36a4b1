"""What a response was asked with, as a list of items; and what such a list is asked with. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.requests import Request

from infra.bridge.custom import InputReader
from infra.bridge.handed import call_id
from infra.bridge.responses.refusing import wrong
from schemas.commands import Command, Generate, PostResult, RunAgent
from schemas.messages import Message, ToolCall

_MOST = 100
_USUAL = 20


def input_of(command: Command, results: Sequence[PostResult] = ()) -> list[dict[str, Any]]:
    """List the items that were given, without the instructions and what was said in earlier responses."""
    data = command.data
    if isinstance(data, PostResult):
        answered = [Message("tool", one.content, tool_call_id=call_id(one.effect, command.thread)) for one in results]
        data = RunAgent(agent="", messages=tuple(answered), note=data.note)
    assert isinstance(data, Generate | RunAgent)
    first = 0
    if isinstance(data, Generate):
        first = bool(data.note.get("instructed")) + int(data.note.get("earlier", 0))
    items: list[dict[str, Any]] = []
    for message in data.messages[first:]:
        items += _items(message, data.note.get("calls", {}))
    # calls that nobody answers are in no message
    items += [{"status": "completed", **one} for one in data.note.get("hosted", ())]
    return [{"id": f"{_PREFIX.get(item['type'], 'msg')}_{command.id}_in{at}", **item} for at, item in enumerate(items)]


_PREFIX = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "local_shell_call": "lsh",
    "shell_call": "sh",
    "apply_patch_call": "apc",
    "computer_call": "cu",
    "local_shell_call_output": "lsho",
    "reasoning": "rs",
}


def _items(message: Message, kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    """List what a message was given as; `kinds` says of calls, by their ids, what they are but those of functions."""
    done = {"status": "completed"}
    if message.role == "tool":
        kind = kinds.get(message.tool_call_id or "", "function_call")
        return [{"type": f"{kind}_output", "call_id": message.tool_call_id, "output": message.content, **done}]
    items: list[dict[str, Any]] = []
    if message.reasoning:
        thought = [{"type": "reasoning_text", "text": message.reasoning}]
        items.append({"type": "reasoning", "summary": [], "content": thought, **done})
    if message.content or not message.tool_calls:
        part: dict[str, Any] = {"type": "input_text", "text": message.content}
        if message.role == "assistant":
            part = {"type": "output_text", "text": message.content, "annotations": [], "logprobs": []}
        items.append({"type": "message", "role": message.role, "content": [part], **done})
    return [*items, *({**_call(call, kinds.get(call.id, "")), **done} for call in message.tool_calls)]


def _call(call: ToolCall, kind: str) -> dict[str, Any]:
    match kind:
        case "custom_tool_call":
            reader = InputReader()
            given = reader.feed(call.arguments) + reader.end()
            return {"type": kind, "call_id": call.id, "name": call.name, "input": given}
        case "local_shell_call" | "shell_call" | "computer_call" | "apply_patch_call":
            field = "operation" if kind == "apply_patch_call" else "action"
            return {"type": kind, "call_id": call.id, field: msgspec.json.decode(call.arguments)}
        case _:
            return {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}


def listed(items: list[dict[str, Any]], request: Request) -> dict[str, Any]:
    """Make the page that is asked for.

    Raises:
        BadRequest: names the parameter and what it should be.
    """
    query = request.query_params
    order, after = query.get("order", "desc"), query.get("after")
    if order not in {"asc", "desc"}:
        raise wrong("order", "'asc' or 'desc'")
    limit = number(request, "limit")
    if limit is not None and not 1 <= limit <= _MOST:
        raise wrong("limit", f"a number from 1 to {_MOST}")
    ordered = items if order == "asc" else items[::-1]
    if after:
        names = [item["id"] for item in ordered]
        if after not in names:
            raise wrong("after", "no item has this id")
        ordered = ordered[names.index(after) + 1 :]
    shown = ordered[: limit or _USUAL]
    first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
    return {
        "object": "list",
        "data": shown,
        "first_id": first,
        "last_id": last,
        "has_more": len(ordered) > len(shown),
    }


def flag(request: Request, name: str) -> bool:
    """Read a parameter that is true or false.

    Raises:
        BadRequest: it is neither.
    """
    given = request.query_params.get(name, "false").lower()
    if given not in {"true", "false", "1", "0"}:
        raise wrong(name, "true or false")
    return given in {"true", "1"}


def number(request: Request, name: str) -> int | None:
    """Read a parameter that is a number; None where it is left out.

    Raises:
        BadRequest: it is none.
    """
    given = request.query_params.get(name)
    if given is None:
        return None
    if not given.isdecimal() or len(given) > 9:
        raise wrong(name, "a whole number")
    return int(given)
