"""A thread as AG-UI's messages. Pure: an answer is put together from the events of its run, as a client does it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from infra.bridge.agui.asking import NOTE
from infra.bridge.agui.events import AguiEncoder, Event
from infra.bridge.agui.state import ThreadState
from infra.bridge.telling.recorded import RecordedRun, noted_in
from schemas.agui import AguiInput
from schemas.commands import Command, RunAgent
from schemas.messages import Message


def history(asked: AguiInput, runs: Iterable[RecordedRun]) -> list[dict[str, Any]]:
    """List a thread's messages."""
    found: list[dict[str, Any]] = []
    for run in runs:
        found += _asked(run.command)
        grown: dict[str, dict[str, Any]] = {}
        for event in AguiEncoder(run.command, asked, ThreadState()).retold(run.events):
            _take(event, grown)
        found += grown.values()
    return found


def _asked(command: Command) -> list[dict[str, Any]]:
    data = command.data
    assert isinstance(data, RunAgent)
    given = [Message("user", data.text)] if data.text is not None else data.messages
    ids = iter(noted_in(command, NOTE))
    said = [one for one in given if one.role == "user"]
    return [
        {"id": next(ids, f"{command.id}-{at}"), "role": "user", "content": one.content} for at, one in enumerate(said)
    ]


def _take(event: Event, grown: dict[str, dict[str, Any]]) -> None:
    """Add an event to the messages that grow, which are known by id."""
    match event:
        case {"type": "TEXT_MESSAGE_START" | "REASONING_MESSAGE_START", "messageId": identity, "role": role}:
            grown[identity] = {"id": identity, "role": role, "content": ""}
        case {"type": "TEXT_MESSAGE_CONTENT" | "REASONING_MESSAGE_CONTENT", "messageId": identity, "delta": delta}:
            grown[identity]["content"] += delta
        case {"type": "TOOL_CALL_START", "toolCallId": call, "toolCallName": name, "parentMessageId": identity}:
            message = grown.setdefault(identity, {"id": identity, "role": "assistant"})
            made = {"id": call, "type": "function", "function": {"name": name, "arguments": ""}}
            message.setdefault("toolCalls", []).append(made)
        case {"type": "TOOL_CALL_ARGS", "toolCallId": call, "delta": delta}:
            for message in grown.values():
                for made in message.get("toolCalls", ()):
                    if made["id"] == call:
                        made["function"]["arguments"] += delta
        case {"type": "TOOL_CALL_RESULT", "messageId": identity, "toolCallId": call, "content": content}:
            grown[identity] = {"id": identity, "role": "tool", "toolCallId": call, "content": content}
        case _:
            pass
