"""What a request's `tool_choice` stands for: OpenAI's three words, one tool by its name, or some of the tools."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from schemas.messages import ToolChoice
from schemas.openai import ChatRequest


class _Named(msgspec.Struct, frozen=True):
    name: Annotated[str, msgspec.Meta(min_length=1)]


class _Function(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    function: _Named

    @property
    def name(self) -> str:
        return self.function.name


class _Custom(msgspec.Struct, frozen=True, tag_field="type", tag="custom"):
    custom: _Named

    @property
    def name(self) -> str:
        return self.custom.name


_Choice = _Function | _Custom


class _Several(msgspec.Struct, frozen=True):
    mode: Literal["auto", "required"]
    tools: list[_Choice]


class _Allowed(msgspec.Struct, frozen=True, tag_field="type", tag="allowed_tools"):
    allowed_tools: _Several


def narrowed(request: ChatRequest) -> ChatRequest:
    """Leave of a request's tools those that are allowed: no others are told of. Any other choice stays as it is."""
    try:
        allowed = msgspec.convert(request.tool_choice, _Allowed).allowed_tools
    except msgspec.ValidationError:
        return request
    names = {tool.name for tool in allowed.tools}
    tools = [tool for tool in request.tools or () if tool.spec.name in names]
    if {tool.spec.name for tool in tools} != names:
        return request  # which is refused: one of them is none
    return msgspec.structs.replace(request, tools=tools, tool_choice=allowed.mode)


def tool_choice(given: Any) -> tuple[ToolChoice, str] | None:
    """Give the choice, and which tool it is about; `None` if it is none that there is."""
    match given:
        case None:
            return "auto", ""
        case "auto" | "none" | "required":
            return given, ""
        case _:
            try:
                return "required", _named(given).name
            except msgspec.ValidationError:
                return None


def _named(given: Any) -> _Function | _Custom:
    found: _Function | _Custom = msgspec.convert(given, _Choice)
    return found
