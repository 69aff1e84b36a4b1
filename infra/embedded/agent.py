"""What the embedded model was trained for: one name, one instruction, four tools."""

from __future__ import annotations

from typing import Any, Final

MODEL_NAME: Final = "ostinato-mini"
INSTRUCTIONS: Final = (
    "You are Ostinato's demo assistant. Use the tools for arithmetic, for the date and time, and for notes."
)


def _tool(name: str, description: str, required: tuple[str, ...]) -> dict[str, Any]:
    parameters: dict[str, Any] = {"type": "object", "properties": {field: {"type": "string"} for field in required}}
    if required:
        parameters["required"] = list(required)
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS: Final[tuple[dict[str, Any], ...]] = (
    _tool("calculator", "Work out an arithmetic expression.", ("expression",)),
    _tool("clock", "Tell the current date and time.", ()),
    _tool("save_note", "Remember a fact under a topic.", ("topic", "text")),
    _tool("find_note", "Recall what was remembered about a topic.", ("topic",)),
)
