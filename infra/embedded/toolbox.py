"""The demo agent's tools as plain functions, for making dialogues and for judging answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from infra.arithmetic import shown, value


def calculate(expression: str) -> str:
    """Work out an expression, or say `error: …` as the demo agent's calculator does."""
    try:
        return shown(value(expression))
    except ValueError as problem:
        return f"error: {problem}"


def moment(now: datetime) -> str:
    """Say a moment as the demo agent's clock does."""
    return f"{now:%A} {now.day} {now:%B %Y}, {now:%H:%M} UTC"


@dataclass(slots=True)
class Toolbox:
    """The four tools over one notebook and one moment."""

    now: datetime
    notes: dict[str, str] = field(default_factory=dict)

    def run(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool by name and return its result as the model would read it."""
        match name, dict(arguments):
            case "calculator", {"expression": str(expression)}:
                return calculate(expression)
            case "clock", {}:
                return moment(self.now)
            case "save_note", {"topic": str(topic), "text": str(text)}:
                self.notes[topic] = text
                return "saved"
            case "find_note", {"topic": str(topic)}:
                return self.notes.get(topic, f"nothing noted about {topic!r}")
            case _:
                return f"error: no such call of {name!r}"
