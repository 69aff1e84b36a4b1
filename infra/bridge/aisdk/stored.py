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
    message = GrowingMessage()
    for chunk in UiEncoder(run.command).retold(run.events):
        message.take(chunk)
    if not message.parts:
        return []
    told = {"id": message_id(run.command), "role": "assistant", "parts": message.parts}
    return [{**told, "metadata": message.metadata}]


class GrowingMessage:
    """A message that grows by chunks."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.metadata: dict[str, Any] = {}
        self._step = 0
        """Where the parts of the step begin."""
        self._written: dict[tuple[str, str], Part] = {}
        """Texts and the like that go on, by kind and id: more than one may."""

    def take(self, chunk: dict[str, Any]) -> None:
        """Add a chunk."""
        kind = chunk["type"]
        self.metadata |= chunk.get("messageMetadata", {})
        if kind == "start-step":
            self.parts.append({"type": "step-start"})
            self._step = len(self.parts)
        elif kind == "reset-step":
            del self.parts[self._step :]
            self._written.clear()
        elif "id" in chunk and kind.endswith(("-start", "-delta", "-end")):
            kind, _, what = kind.rpartition("-")
            self._write(kind, what, chunk)
        elif kind.startswith("tool-"):
            self._call(kind, chunk)
        elif kind.startswith("data-") and not chunk.get("transient"):
            self._data(chunk)

    def _write(self, kind: str, what: str, chunk: dict[str, Any]) -> None:
        name = (kind, chunk["id"])
        if what == "start":
            self._written[name] = {"type": kind, "text": "", "state": "done"}
            self.parts.append(self._written[name])
            return
        assert name in self._written, f"a {kind} part {chunk['id']!r} goes on that was not begun, or has ended"
        if what == "delta":
            self._written[name]["text"] += chunk["delta"]
        else:
            del self._written[name]

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
        call = chunk["toolCallId"]
        found = next((part for part in reversed(self.parts) if part.get("toolCallId") == call), None)
        assert found is not None, f"{chunk['type']} is about the call {call!r}, of which nothing was told"
        return found

    def _data(self, chunk: dict[str, Any]) -> None:
        part = {"type": chunk["type"], "id": chunk["id"], "data": chunk["data"]}
        at = next((at for at, one in enumerate(self.parts) if one.get("id") == chunk["id"]), len(self.parts))
        self.parts[at : at + 1] = [part]


def _tool(chunk: dict[str, Any]) -> Part:
    return {"type": f"tool-{chunk['toolName']}", "toolCallId": chunk["toolCallId"], "input": chunk["input"]}
