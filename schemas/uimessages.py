"""The AI SDK's UI messages, the part of them that is served, as its clients write them. Unknown fields are ignored."""

from __future__ import annotations

from typing import Any, Literal

from schemas.wire import Wire


class UiApproval(Wire, frozen=True):
    """Whether a person agrees to a call."""

    id: str
    approved: bool | None = None
    """None while nobody has said."""
    reason: str | None = None


class UiPart(Wire, frozen=True):
    """A part of a message, of whatever `type`: each has some of the fields."""

    type: str
    text: str = ""
    state: str = ""
    toolCallId: str = ""  # noqa: N815  as its clients write it
    toolName: str = ""  # noqa: N815
    input: Any = None
    output: Any = None
    errorText: str | None = None  # noqa: N815
    approval: UiApproval | None = None

    @property
    def tool(self) -> bool:
        """Whether it is a call of a tool."""
        return self.type == "dynamic-tool" or self.type.startswith("tool-")

    @property
    def name(self) -> str:
        """The tool's."""
        return self.toolName or self.type.removeprefix("tool-")


class UiMessage(Wire, frozen=True):
    """A message."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[UiPart, ...]
    id: str = ""


class ChatAsked(Wire, frozen=True):
    """`POST …/chat`, as the default transport sends it."""

    id: str
    """Of the conversation."""
    messages: tuple[UiMessage, ...]
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    messageId: str | None = None  # noqa: N815
    agent: str = ""
    """Ours: who is asked, where the path does not say."""
