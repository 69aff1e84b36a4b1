"""A thread as UI messages: what a client begins with. Pure.

The assistant's messages are put together from the chunks of its runs, as a client does that hears them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from infra.bridge.aisdk.asking import NOTE
from infra.bridge.aisdk.events import UiEncoder, message_id
from infra.bridge.telling.recorded import RecordedRun, noted_in
from schemas.commands import Command, RunAgent
from schemas.messages import Message

Part = dict[str, Any]


def ui_messages(runs: Iterable[RecordedRun]) -> list[dict[str, Any]]:
    """List the messages of a thread. Of a run that is under way the answer is left out: its stream brings it."""
    found: list[dict[str, Any]] = []
    for run in runs:
        found += _asked(run.command)
        if run.reader.over or run.reader.paused:
            found += _answered(run)
    return found


def _asked(command: Command) -> list[dict[str, Any]]:
    data = command.data
    assert isinstance(data, RunAgent)
    given = [Message("user", data.text)] if data.text is not None else data.messages
    said = [one for one in given if one.role in {"user", "assistant"} and one.content]
    ids = iter(noted_in(command, NOTE))
    return [
        {
            "id": next(ids, f"{command.id}-{at}") if one.role == "user" else f"{command.id}-{at}",
            "role": one.role,
            "parts": [{"type": "text", "text": one.content, "state": "done"}],
        }
        for at, one in enumerate(said)
    ]


def _answered(run: RecordedRun) -> list[dict[str, Any]]:
    message = _Message()
    for chunk in UiEncoder(run.command).retold(run.events):
        message.take(chunk)
    if not message.parts:
        return []
    told = {"id": message_id(run.command), "role": "assistant", "parts": message.parts}
    return [{**told, "metadata": message.metadata}]


class _Message:
    """A message that grows by chunks."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.metadata: dict[str, Any] = {}
        self._step = 0
        """Where the parts of the step begin."""

    def take(self, chunk: dict[str, Any]) -> None:
        """Add a chunk."""
        kind = chunk["type"]
        self.metadata |= chunk.get("messageMetadata", {})
        if kind == "start-step":
            self.parts.append({"type": "step-start"})
            self._step = len(self.parts)
        elif kind == "reset-step":
            del self.parts[self._step :]
        elif kind.endswith("-start") and "id" in chunk:
            self.parts.append({"type": kind.removesuffix("-start"), "text": "", "state": "done"})
        elif kind.endswith("-delta") and "id" in chunk:
            self.parts[-1]["text"] += chunk["delta"]
        elif kind.startswith("tool-"):
            self._call(kind, chunk)
        elif kind.startswith("data-") and not chunk.get("transient"):
            self._data(chunk)

    def _call(self, kind: str, chunk: dict[str, Any]) -> None:
        match kind:
            case "tool-input-available":
                self.parts.append(_tool(chunk) | {"state": "input-available"})
            case "tool-input-error":
                self.parts.append(_tool(chunk) | {"state": "output-error", "errorText": chunk["errorText"]})
            case "tool-approval-request":
                self._found(chunk).update(state="approval-requested", approval={"id": chunk["approvalId"]})
            case "tool-approval-response":
                given = {name: chunk[name] for name in ("approved", "reason") if name in chunk}
                for part in self.parts:
                    if part.get("approval", {}).get("id") == chunk["approvalId"]:
                        part["state"] = "approval-responded"
                        part["approval"] |= given
            case "tool-output-available":
                self._found(chunk).update(state="output-available", output=chunk["output"])
            case "tool-output-error":
                self._found(chunk).update(state="output-error", errorText=chunk["errorText"])
            case "tool-output-denied":
                self._found(chunk).update(state="output-denied")
            case _:
                pass

    def _found(self, chunk: dict[str, Any]) -> Part:
        """Return the last part of a call."""
        return next(part for part in reversed(self.parts) if part.get("toolCallId") == chunk["toolCallId"])

    def _data(self, chunk: dict[str, Any]) -> None:
        part = {"type": chunk["type"], "id": chunk["id"], "data": chunk["data"]}
        at = next((at for at, one in enumerate(self.parts) if one.get("id") == chunk["id"]), len(self.parts))
        self.parts[at : at + 1] = [part]


def _tool(chunk: dict[str, Any]) -> Part:
    return {"type": f"tool-{chunk['toolName']}", "toolCallId": chunk["toolCallId"], "input": chunk["input"]}
