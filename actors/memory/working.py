"""Working memory: what an agent keeps in mind of a thread, written by a tool, each write an event of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from actors.errors import DefinitionError
from actors.memory.state import Memory
from actors.tools import Tool, ToolContext, tool
from schemas import codec
from schemas.memory import MemoryWrite, Working, WorkingWritten
from schemas.runs import MemoryWritten
from schemas.standing import ModeChanged

TOOL = "update_working_memory"
LONGEST = 16_384
"""Characters that it may hold: it is in every prompt."""


def merged(there: str, patch: str) -> str:
    """Merge a JSON object into another one, as RFC 7396 says: null takes away, objects go deep, all else replaces."""
    return codec.encode(_merged(_read(there), _read(patch))).decode()


def _read(text: str) -> Any:
    try:
        return msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}


def _merged(there: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    found = dict(there) if isinstance(there, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = _merged(found.get(name), value)
    return found


def written(
    memory: Memory, write: MemoryWrite, by: str = "", agent: str = ""
) -> MemoryWritten | WorkingWritten | ModeChanged:
    """Give the event that a write becomes: of somebody, or of a tool of an agent."""
    match write.scope:
        case "note":
            return MemoryWritten(topic=write.topic, text=write.text)
        case "working":
            return WorkingWritten(content=write.text, by=by)
        case "merge":
            return WorkingWritten(content=merged(memory.working, write.text), by=by)
        case "mode":
            return ModeChanged(mode=write.text, by=by, agent=agent)


def working_tool(working: Working) -> Tool:
    """Make the tool by which a model writes its working memory.

    Raises:
        DefinitionError: the schema is not one of an object.
    """
    return _merging(working.parameters) if working.parameters is not None else _replacing()


def _replacing() -> Tool:
    @tool(name=TOOL, effect="idempotent")
    def update(content: str, context: ToolContext) -> str:
        """Replace the working memory by `content`: all that is worth keeping in mind, in the form that it has."""
        _keep(context, "working", content)
        return "remembered"

    return update


def _merging(parameters: dict[str, Any]) -> Tool:
    if parameters.get("type") != "object" or not isinstance(parameters.get("properties"), dict):
        raise DefinitionError("the working memory's schema must be of type 'object', with properties")

    @tool(name=TOOL, effect="idempotent")
    def update(changes: dict[str, Any], context: ToolContext) -> str:
        """Change the working memory: give what is new or otherwise, and null for what is to be forgotten."""
        text = codec.encode(changes).decode()
        _fit(merged(context.working, text))
        _keep(context, "merge", text)
        return "remembered"

    shown = {**parameters, "required": []}
    schema = {"type": "object", "properties": {"changes": shown}, "required": ["changes"]}
    return replace(update, parameters=schema)


def _fit(text: str) -> None:
    if len(text) > LONGEST:
        raise ValueError(f"the working memory holds {LONGEST} characters, not {len(text)}: say it in fewer words")


def _keep(context: ToolContext, scope: Any, text: str) -> None:
    _fit(text)
    context.writes.append(MemoryWrite(topic="", text=text, scope=scope))
