"""The tools that a request for a response offers: functions and custom ones; hosted ones are left out. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from engine.errors import BadRequest as Unfit
from infra.bridge.custom import as_functions
from infra.bridge.responses.hosted import left_out_items
from infra.bridge.responses.refusing import wrong
from schemas.messages import ToolSpec
from schemas.openai import ChatTool, CustomFormat, CustomGrammar, CustomTool
from schemas.responses import ResponsesRequest

_HOSTED: Final = frozenset({
    *("web_search", "web_search_preview", "file_search", "image_generation", "code_interpreter", "mcp"),
    *("computer", "computer_use", "computer_use_preview", "local_shell", "shell", "apply_patch"),
    *("namespace", "tool_search", "programmatic_tool_calling"),
})  # fmt: skip
"""Kinds of tools that are run where a model is, or are known to it from its training."""
_DATED: Final = re.compile(r"(\w{1,40}?)(?:_\d{4}_\d{2}_\d{2})?", re.ASCII)


def _hosted(kind: object) -> str:
    """Give the kind that one is of, without its date; empty where it is no such kind."""
    found = _DATED.fullmatch(kind) if isinstance(kind, str) else None
    return found[1] if found is not None and found[1] in _HOSTED else ""


def left_out(asked: ResponsesRequest) -> list[str]:
    """List the kinds of tools, and of calls in its history, that the model is not told of, each once."""
    return list(dict.fromkeys([*_kinds_left_out(asked), *left_out_items(asked)]))


def _kinds_left_out(asked: ResponsesRequest) -> list[str]:
    return list(dict.fromkeys(kind for tool in asked.tools or () if (kind := _hosted(tool.get("type")))))


def offered(asked: ResponsesRequest) -> tuple[Any, list[ChatTool]]:
    """Give the choice among tools, as chat requests have it, and those that the model is told of.

    Raises:
        BadRequest: names the tool that is none, or the choice that only one of those could answer which are not here.
    """
    tools = _tools(asked.tools or [])
    choice: Any = asked.tool_choice
    match choice:
        case {"type": "function" | "custom" as kind, "name": str(name)}:
            return {"type": kind, kind: {"name": name}}, tools
        case {"type": "allowed_tools", "tools": [*allowed], "mode": "auto" | "required" as mode}:
            names = {one.get("name") for one in allowed if isinstance(one, dict)}
            choice, tools = mode, [tool for tool in tools if tool.spec.name in names]
        case {"type": kind} if hosted := _hosted(kind):
            raise _required([hosted])
    if choice == "required" and not tools and (without := _kinds_left_out(asked)):
        raise _required(without)
    return choice, tools


def _required(kinds: list[str]) -> Exception:
    message = f"tools of type {', '.join(map(repr, kinds))} are not run here: give functions or custom tools, or 'auto'"
    return wrong("tool_choice", message)


def _tools(given: list[dict[str, Any]]) -> list[ChatTool]:
    """Read those that a model can be told of, whatever number each has among all."""
    run = [(at, tool) for at, tool in enumerate(given) if not _hosted(tool.get("type"))]
    try:
        return as_functions([_tool(tool, at) for at, tool in run], [f"tools[{at}].format" for at, _ in run])
    except Unfit as error:
        raise wrong(error.field, error.message) from error


def _tool(given: dict[str, Any], at: int) -> ChatTool:
    kind, about = given.get("type"), str(given.get("description") or "")
    match given:
        case {"type": "function", "name": str(name)}:
            parameters = given.get("parameters")
            schema = parameters if isinstance(parameters, dict) else {}
            return ChatTool(ToolSpec(name, about, schema, strict=given.get("strict") is True))
        case {"type": "custom", "name": str(name)} if name:
            format_ = _format(given.get("format"), f"tools[{at}].format")
            return ChatTool(type="custom", custom=CustomTool(name, about, format_))
        case {"type": "function" | "custom"}:
            raise wrong(f"tools[{at}].name", "a tool has a name")
        case _:
            raise wrong(f"tools[{at}]", f"there is no tool of type {kind!r}: give functions or custom tools")


def _format(given: Any, field: str) -> CustomFormat | None:
    match given:
        case None:
            return None
        case {"type": "text"}:
            return CustomFormat()
        case {"type": "grammar"}:
            try:
                return CustomFormat("grammar", msgspec.convert(given, CustomGrammar))
            except msgspec.ValidationError as error:
                raise wrong(field, f"give its `syntax`, 'lark' or 'regex', and its `definition`: {error}") from error
        case _:
            raise wrong(field, "it is of type 'text' or 'grammar'")
