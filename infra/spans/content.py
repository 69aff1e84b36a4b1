"""What was said, as attributes of spans: only where that is asked for, and without secrets and personal data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from actors.processors.patterns import RegexFilter
from actors.processors.processor import About
from infra.spans.names import Names
from schemas.messages import ToolCall

_LONGEST = 16_384


@dataclass(frozen=True)
class NoContent:
    """Nothing that was said."""

    def said(self, names: Names, text: str, calls: Sequence[ToolCall] = ()) -> dict[str, str]:
        """Tell an answer."""
        return {}

    def heard(self, names: Names, text: str) -> dict[str, str]:
        """Tell what was asked."""
        return {}

    def tool(self, names: Names, arguments: str | None, result: str | None) -> dict[str, str]:
        """Tell a tool's arguments, or its result."""
        return {}


@dataclass(frozen=True)
class Redacted(NoContent):
    """What was said, with the names of rules in the place of what they find."""

    rules: RegexFilter = field(default_factory=RegexFilter)

    def said(self, names: Names, text: str, calls: Sequence[ToolCall] = ()) -> dict[str, str]:
        """Tell an answer as the conventions' JSON of messages."""
        parts = [{"type": "text", "content": self._clean(text)}] if text else []
        parts += [
            {"type": "tool_call", "id": call.id, "name": call.name, "arguments": self._clean(call.arguments)}
            for call in calls
        ]
        return {names.output_messages: msgspec.json.encode([{"role": "assistant", "parts": parts}]).decode()}

    def heard(self, names: Names, text: str) -> dict[str, str]:
        """Tell what was asked, likewise."""
        parts = [{"type": "text", "content": self._clean(text)}]
        return {names.input_messages: msgspec.json.encode([{"role": "user", "parts": parts}]).decode()}

    def tool(self, names: Names, arguments: str | None, result: str | None) -> dict[str, str]:
        """Tell a tool's arguments, or its result."""
        told = {names.arguments: arguments, names.result: result}
        return {key: self._clean(text) for key, text in told.items() if text is not None}

    def _clean(self, text: str) -> str:
        return self.rules.cleaned(text[:_LONGEST], About(None), "prompt")
