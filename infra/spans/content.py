"""What was said, as attributes of spans: only where that is asked for, and without secrets and personal data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec

from actors.processors.patterns import RegexFilter
from actors.processors.processor import About
from infra.spans.names import Names
from schemas.messages import Message, ToolCall

_LONGEST = 16_384
"""Characters of one text."""
_MOST = 65_536
"""Characters of the input of one call."""


@dataclass(frozen=True)
class NoContent:
    """Nothing that was said."""

    wanted: ClassVar[bool] = False
    """Whether what was said is to be known at all."""

    def said(self, names: Names, text: str, calls: Sequence[ToolCall] = ()) -> dict[str, str]:
        """Tell an answer."""
        return {}

    def heard(self, names: Names, messages: Sequence[Message]) -> dict[str, Any]:
        """Tell what was asked."""
        return {}

    def tool(self, names: Names, arguments: str | None, result: str | None) -> dict[str, str]:
        """Tell a tool's arguments, or its result."""
        return {}

    def searched(self, text: str) -> str:
        """Tell what was looked for; empty where it is not told."""
        return ""


@dataclass(frozen=True)
class Redacted(NoContent):
    """What was said, with the names of rules in the place of what they find."""

    wanted = True
    rules: RegexFilter = field(default_factory=RegexFilter)

    def said(self, names: Names, text: str, calls: Sequence[ToolCall] = ()) -> dict[str, str]:
        """Tell an answer as the conventions' JSON of messages."""
        told = self._told(Message("assistant", text, tuple(calls)))
        return {names.output_messages: msgspec.json.encode([told]).decode()}

    def heard(self, names: Names, messages: Sequence[Message]) -> dict[str, Any]:
        """Tell what was asked, likewise: what is too much in all is left out between instructions and latest turns."""
        first = list(messages[:1]) if messages and messages[0].role == "system" else []
        room, kept = _MOST - sum(map(_size, first)), list[Message]()
        for message in reversed(messages[len(first) :]):
            room -= _size(message)
            if room < 0 and kept:
                break
            kept.append(message)
        told = [self._told(message) for message in (*first, *reversed(kept))]
        left_out = len(messages) - len(told)
        about = {"ostinato.input.left_out": left_out} if left_out else {}
        return {names.input_messages: msgspec.json.encode(told).decode(), **about}

    def _told(self, message: Message) -> dict[str, Any]:
        parts: list[dict[str, str]] = []
        if message.role == "tool":
            answered = message.tool_call_id or ""
            parts.append({"type": "tool_call_response", "id": answered, "response": self._clean(message.content)})
        elif message.content:
            parts.append({"type": "text", "content": self._clean(message.content)})
        parts += [
            {"type": "tool_call", "id": call.id, "name": call.name, "arguments": self._clean(call.arguments)}
            for call in message.tool_calls
        ]
        return {"role": message.role, "parts": parts}

    def tool(self, names: Names, arguments: str | None, result: str | None) -> dict[str, str]:
        """Tell a tool's arguments, or its result."""
        told = {names.arguments: arguments, names.result: result}
        return {key: self._clean(text) for key, text in told.items() if text is not None}

    def searched(self, text: str) -> str:
        """Tell what was looked for."""
        return self._clean(text)

    def _clean(self, text: str) -> str:
        return self.rules.cleaned(text[:_LONGEST], About(None), "prompt")


def _size(message: Message) -> int:
    texts = (message.content, *(call.arguments for call in message.tool_calls))
    return sum(min(len(text), _LONGEST) for text in texts)
