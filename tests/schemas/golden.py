"""Writes the golden files that are missing, and the JSON Schema: `python -m tests.schemas.golden`."""

from __future__ import annotations

import json
from pathlib import Path

from schemas import codec
from schemas.json_schema import event_schema
from tests.schemas.examples import ENVELOPE, named

GOLDEN = Path(__file__).parents[1] / "golden"


def write() -> None:
    """Write what is not there; what was released is never written again."""
    (GOLDEN / "events").mkdir(parents=True, exist_ok=True)
    data = codec.encode(ENVELOPE)
    wanted = {GOLDEN / "events" / f"{name}.json": codec.encode(event) for name, event in named().items()}
    wanted |= {GOLDEN / "envelope-1.json": data, GOLDEN / "envelope-1.hash": codec.digest(data).encode()}
    for path, content in wanted.items():
        if not path.exists():
            path.write_bytes(content)
    schema = json.dumps(event_schema(), indent=1, sort_keys=True, ensure_ascii=False)
    (GOLDEN / "events.schema.json").write_text(schema + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
