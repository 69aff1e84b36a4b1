"""A model that is none: it calls the one tool of its run with what the run was asked, and says what came of it.

So a tool that somebody calls by itself is a run like any other: in the log before it happens, waited for where a person
must agree, and gone on with after a crash.
"""

from __future__ import annotations

from typing import Final

from actors.errors import CallFailed
from actors.models.provider import ModelAnswer, ModelCall, OnText, Piece
from schemas.messages import ToolCall, Usage
from schemas.programs import ProgramNote
from schemas.runs import Problem

DIRECT: Final = "direct"
"""Its name."""
OPENED: Final = "opened-tools"
"""The one agent that may have it: any other's tools are for a model to choose from, not for whoever asks."""


def not_its_own(model: str) -> Problem:
    """Say why an agent cannot ask it, by the name that was given."""
    message = f"model {model!r} calls tools that are open by themselves, and answers no other agent: name another"
    return Problem(kind="unknown_model", message=message, field="model")


class DirectCalls:
    """The `ModelProvider` of runs that are one tool call; the run's message is the call's arguments."""

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Call the tool, or tell what it gave.

        Raises:
            CallFailed: it is another agent's run, or there is not one tool to be called.
        """
        if call.agent != OPENED:
            raise CallFailed(not_its_own(DIRECT))
        last = call.messages[-1]
        if last.role == "tool":
            await on_text(Piece(0, last.content))
            return ModelAnswer(text=last.content, finish_reason="stop", usage=Usage())
        if len(call.tools) != 1:
            message = f"model {DIRECT!r} calls a run's one tool, and this run has {len(call.tools)}"
            raise CallFailed(Problem(kind="invalid", message=message, field="model"))
        called = ToolCall("direct-1", call.tools[0].name, last.content)
        return ModelAnswer(text="", finish_reason="tool_calls", usage=Usage(), tool_calls=(called,))

    async def search(self, call: ModelCall) -> list[ModelAnswer]:
        """Search for nothing: there is one answer.

        Raises:
            CallFailed: always.
        """
        raise CallFailed(Problem(kind="invalid", message=f"model {DIRECT!r} cannot search", field="model"))

    async def note(self, note: ProgramNote) -> None:
        """Need to know nothing."""

    async def abort(self, request: str) -> None:
        """Have nothing to stop."""
