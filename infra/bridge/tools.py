"""What a request's `tool_choice` stands for: OpenAI's three words, or one function by its name."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from schemas.messages import ToolChoice


class _Named(msgspec.Struct, frozen=True):
    name: Annotated[str, msgspec.Meta(min_length=1)]


class _Choice(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    function: _Named


def tool_choice(given: Any) -> tuple[ToolChoice, str] | None:
    """Give the choice, and which tool it is about; `None` if it is none that there is."""
    match given:
        case None:
            return "auto", ""
        case "auto" | "none" | "required":
            return given, ""
        case _:
            try:
                return "required", msgspec.convert(given, _Choice).function.name
            except msgspec.ValidationError:
                return None
