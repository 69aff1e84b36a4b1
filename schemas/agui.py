"""AG-UI's `RunAgentInput`, the part of it that is served, as its clients write it. Unknown fields are ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from schemas.wire import Wire


class AguiFunction(Wire, frozen=True):
    """What a call is of."""

    name: str
    arguments: str = "{}"


class AguiToolCall(Wire, frozen=True):
    """A call of the assistant's."""

    id: str
    function: AguiFunction


class AguiMessage(Wire, frozen=True, rename="camel"):
    """A message, of whatever role: each has some of the fields."""

    id: str
    role: Literal["developer", "system", "assistant", "user", "tool", "activity", "reasoning"]
    content: Any = None
    """A text, or a list of parts."""
    tool_calls: tuple[AguiToolCall, ...] | None = None
    tool_call_id: str = ""
    error: str | None = None


class AguiTool(Wire, frozen=True):
    """A tool that the client runs."""

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None


class AguiResume(Wire, frozen=True, rename="camel"):
    """An answer to an interrupt."""

    interrupt_id: str
    status: Literal["resolved", "cancelled"]
    payload: Any = None


class AguiInput(Wire, frozen=True, rename="camel"):
    """What a run is asked for with."""

    thread_id: str
    run_id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    messages: tuple[AguiMessage, ...]
    parent_run_id: str | None = None
    state: Any = None
    tools: Annotated[tuple[AguiTool, ...], msgspec.Meta(max_length=128)] | None = None
    context: tuple[dict[str, Any], ...] | None = None
    forwarded_props: Any = None
    resume: tuple[AguiResume, ...] | None = None
