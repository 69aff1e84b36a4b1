"""What a response tells of its request, noted beside the command that it became. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from infra.bridge.responses.asking import call_id_of
from schemas.commands import Command, Generate, RunAgent
from schemas.responses import ResponsesRequest

_NOTED: Final = (
    *("model", "metadata", "previous_response_id", "tool_choice", "truncation", "user"),
    *("store", "background", "include", "safety_identifier", "prompt_cache_key"),
)


def noted(command: Command, asked: ResponsesRequest, created: int, earlier: int = 0, resource: str = "") -> Command:
    """Put into a command what its response tells, and the command itself does not.

    Args:
        command: what the request became.
        asked: the request.
        created: when, seconds since the Unix epoch.
        earlier: how many of the command's messages were said in earlier responses.
        resource: the one person that its caller is, who alone may ask for it again.
    """
    given = {name: value for name in _NOTED if (value := getattr(asked, name)) is not None}
    note: dict[str, Any] = {"created": created, "instructed": bool(asked.instructions), "earlier": earlier, **given}
    if resource:
        note["resource"] = resource
    if asked.text is not None:
        told = {"format": asked.text.format or {"type": "text"}, "verbosity": asked.text.verbosity}
        note["text"] = {name: value for name, value in told.items() if value is not None}
    if custom := {tool["name"]: _told(tool) for tool in asked.tools or () if tool.get("type") == "custom"}:
        note["custom"] = custom
    if calls := _calls(asked):
        note["calls"] = calls
    if asked.reasoning is not None:
        note["reasoning"] = {"effort": asked.reasoning.effort, "summary": asked.reasoning.summary}
    data = command.data
    assert isinstance(data, Generate | RunAgent)
    return msgspec.structs.replace(command, data=msgspec.structs.replace(data, note=note))


def _told(tool: dict[str, Any]) -> dict[str, Any]:
    """Give of a custom tool what its function does not tell."""
    return {name: tool[name] for name in ("description", "format") if tool.get(name) is not None}


def _calls(asked: ResponsesRequest) -> dict[str, str]:
    """Say of calls, by their ids, what kind they are where that is not a function's."""
    if isinstance(asked.input, str):
        return {}
    kinds = ((call_id_of(item), item.type.removesuffix("_output")) for item in asked.input)
    return {name: kind for name, kind in kinds if kind in {"custom_tool_call", "local_shell_call"}}
