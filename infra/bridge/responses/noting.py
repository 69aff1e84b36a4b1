"""What a response tells of its request, noted beside the command that it became. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from infra.bridge.responses.asking import CALLS, call_id_of
from infra.bridge.responses.hosted import is_hosted
from infra.bridge.responses.hosted import noted as noted_of
from infra.bridge.responses.offered import offered
from schemas.commands import Command, Generate, RunAgent
from schemas.messages import ToolSpec
from schemas.responses import ResponsesRequest

_NOTED: Final = (
    *("model", "metadata", "previous_response_id", "tool_choice", "truncation", "user"),
    *("store", "background", "include", "safety_identifier", "prompt_cache_key"),
)


_OF_RUNS: Final = ("temperature", "top_p", "max_output_tokens", "parallel_tool_calls")


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
    if not isinstance(asked.input, str) and (hosted := [noted_of(one) for one in asked.input if is_hosted(one)]):
        note["hosted"] = hosted
    if asked.reasoning is not None:
        note["reasoning"] = {"effort": asked.reasoning.effort, "summary": asked.reasoning.summary}
    data = command.data
    assert isinstance(data, Generate | RunAgent)
    if isinstance(data, RunAgent):
        # a run may be several responses: what each was asked with is nowhere else
        given = {name: getattr(asked, name) for name in _OF_RUNS}
        note["asked"] = {name: value for name, value in given.items() if value is not None}
        note["asked"]["instructions"] = asked.instructions if data.system else None
        note["tools"] = [tool_told(tool.spec, note.get("custom", {})) for tool in offered(asked)[1]]
    return msgspec.structs.replace(command, data=msgspec.structs.replace(data, note=note))


def tool_told(tool: ToolSpec, custom: Mapping[str, Any]) -> dict[str, Any]:
    """Tell a tool as it was given; `custom` says what the functions of custom tools do not."""
    if tool.name in custom:
        return {"type": "custom", "name": tool.name, **custom[tool.name]}
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }


def _told(tool: dict[str, Any]) -> dict[str, Any]:
    """Give of a custom tool what its function does not tell."""
    return {name: tool[name] for name in ("description", "format") if tool.get(name) is not None}


def _calls(asked: ResponsesRequest) -> dict[str, str]:
    """Say of calls, by their ids, what kind they are where that is not a function's."""
    if isinstance(asked.input, str):
        return {}
    kinds = ((call_id_of(item), item.type.removesuffix("_output")) for item in asked.input)
    return {name: kind for name, kind in kinds if kind in CALLS}
