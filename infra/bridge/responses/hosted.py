"""Calls of tools that were run where a model was: what a client brings back of them in its history. Pure.

Nobody answers them. What such a call came to, where the item says it, is part of what the assistant said; where it
does not, or it is no text, the model is not told of the call, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from schemas.responses import InputItem, ResponsesRequest

_LONGEST: Final = 1000
"""Characters of a text that is noted of one; pictures come as such."""


def is_hosted(item: InputItem) -> bool:
    """Say whether an item is such a call."""
    return item.type in _KINDS


def told_of(item: InputItem) -> str:
    """Give what a model reads of such a call; empty where it is not told."""
    return _KINDS[item.type](item)


def left_out_items(asked: ResponsesRequest) -> Iterator[str]:
    """Name the kinds of items that a model is not told of."""
    if not isinstance(asked.input, str):
        yield from (item.type for item in asked.input if is_hosted(item) and not told_of(item))


def noted(item: InputItem) -> dict[str, Any]:
    """Give what is kept of such a call, to be listed with the others."""
    given = msgspec.to_builtins(item)
    bare = {name: value for name, value in given.items() if value not in (None, "", [], {})}
    return {name: _cut(value) for name, value in bare.items()}


def _cut(value: Any) -> Any:
    match value:
        case str():
            return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"
        case Mapping():
            return {name: _cut(one) for name, one in value.items()}
        case list():
            return [_cut(one) for one in value]
        case _:
            return value


def _nothing(item: InputItem) -> str:
    return ""


def _mcp(item: InputItem) -> str:
    said = item.output if isinstance(item.output, str) and item.output else _text(item.error)
    return _lines(f"{item.server_label}.{item.name}({_text(item.arguments)})", [said])


def _code(item: InputItem) -> str:
    logs = [str(one.get("logs", "")) for one in item.outputs or () if one.get("type") == "logs"]
    return _lines(f"code that was run:\n{item.code or ''}", logs)


def _files(item: InputItem) -> str:
    found = [f"{one.get('filename', '')}: {one.get('text', '')}" for one in item.results or () if one.get("text")]
    return _lines(f"files searched for {', '.join(item.queries or ())}", found)


def _lines(head: str, found: Iterable[str]) -> str:
    told = [text for text in found if text]
    return "\n".join((f"[{head}]", *told, "")) if told else ""


def _text(given: Any) -> str:
    return given if isinstance(given, str) else "" if given is None else msgspec.json.encode(given).decode()


_KINDS: Final[Mapping[str, Callable[[InputItem], str]]] = {
    "mcp_call": _mcp,
    "code_interpreter_call": _code,
    "file_search_call": _files,
    **dict.fromkeys(
        (
            *("web_search_call", "image_generation_call", "tool_search_call", "tool_search_output"),
            *("mcp_list_tools", "mcp_approval_request", "mcp_approval_response"),
        ),
        _nothing,
    ),
}
