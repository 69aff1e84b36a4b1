"""What a response tells of its request, noted beside the command that it became. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from schemas.commands import Command, Generate, RunAgent
from schemas.responses import ResponsesRequest

_NOTED: Final = (
    *("model", "metadata", "previous_response_id", "tool_choice", "truncation", "user"),
    *("store", "background", "include", "safety_identifier", "prompt_cache_key"),
)


def noted(command: Command, asked: ResponsesRequest, created: int, earlier: int = 0) -> Command:
    """Put into a command what its response tells, and the command itself does not.

    Args:
        command: what the request became.
        asked: the request.
        created: when, seconds since the Unix epoch.
        earlier: how many of the command's messages were said in earlier responses.
    """
    given = {name: value for name in _NOTED if (value := getattr(asked, name)) is not None}
    note: dict[str, Any] = {"created": created, "instructed": bool(asked.instructions), "earlier": earlier, **given}
    if asked.text is not None:
        told = {"format": asked.text.format or {"type": "text"}, "verbosity": asked.text.verbosity}
        note["text"] = {name: value for name, value in told.items() if value is not None}
    if asked.reasoning is not None:
        note["reasoning"] = {"effort": asked.reasoning.effort, "summary": asked.reasoning.summary}
    data = command.data
    assert isinstance(data, Generate | RunAgent)
    return msgspec.structs.replace(command, data=msgspec.structs.replace(data, note=note))
