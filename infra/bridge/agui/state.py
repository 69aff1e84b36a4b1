"""What a thread keeps in mind, as the state that AG-UI's clients share: `workingMemory` and `notes`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from actors.memory.working import merged
from schemas import codec
from schemas.live import Committed
from schemas.memory import MemoryWrite, WorkingWritten
from schemas.runs import MemoryWritten


class ThreadState:
    """A thread's memory, as far as is known."""

    def __init__(self, events: Iterable[Committed] = ()) -> None:
        """Read it from the thread's events."""
        self.working = ""
        self.notes: dict[str, str] = {}
        for event in events:
            if event.type == "working.written":
                self.working = codec.decode(event.data, WorkingWritten).content
            elif event.type == "memory.written":
                written: MemoryWritten = codec.decode(event.data, MemoryWritten)
                self.notes[written.topic] = written.text

    def snapshot(self, given: Any) -> dict[str, Any]:
        """Give all of it; what a client has beside it stays."""
        theirs = dict(given) if isinstance(given, Mapping) else {}
        return {**theirs, "workingMemory": _value(self.working), "notes": dict(self.notes)}

    def after(self, write: MemoryWrite) -> list[dict[str, Any]]:
        """Note a write; give what it changes, as a JSON Patch."""
        if write.scope == "note":
            self.notes[write.topic] = write.text
            name = write.topic.replace("~", "~0").replace("/", "~1")
            return [{"op": "add", "path": f"/notes/{name}", "value": write.text}]
        self.working = write.text if write.scope == "working" else merged(self.working, write.text)
        return [{"op": "add", "path": "/workingMemory", "value": _value(self.working)}]

    def wanted(self, given: Any) -> str:
        """Give the working memory that a client wants, where it is another one; else nothing."""
        wanted = given.get("workingMemory") if isinstance(given, Mapping) else None
        if not wanted or wanted == _value(self.working):
            return ""
        return wanted if isinstance(wanted, str) else msgspec.json.encode(wanted).decode()


def _value(text: str) -> Any:
    """Give an object where it is one, else the text."""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    return found if isinstance(found, dict) else text
