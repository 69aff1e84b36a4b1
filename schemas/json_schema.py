"""The JSON Schema of every event, for readers in other languages; a committed copy shows each change of a shape."""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.runs import Event


def event_schema() -> dict[str, Any]:
    """Describe all events: one of them by its `type`."""
    schema: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(Event)))
    return schema
