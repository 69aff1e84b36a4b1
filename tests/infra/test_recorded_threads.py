"""Threads that a real stack recorded must be decided the same for ever: an old log is not wrong, new code would be.

Each bundle in `tests/golden/threads` was exported with `--no-redact` by the version it is named after, and is never
changed. Where decisions change on purpose, the new way must tell old records by what they hold, as the codec does.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bus.store import StoredEvent
from infra.bundles import Bundle
from infra.cli.replay.checking import check
from infra.cli.timeline import lines
from schemas import codec

BUNDLES = sorted((Path(__file__).parents[1] / "golden" / "threads").glob("*.jsonl"))
THREADS = [
    pytest.param(events, id=f"{path.stem}:{events[0].fact.thread}")
    for path in BUNDLES
    for events in Bundle(path).threads()
]


@pytest.mark.parametrize("events", THREADS)
def test_a_recorded_thread_is_decided_today_as_it_was(events: list[StoredEvent]) -> None:
    checked = check(events)
    assert checked.state == "same", f"{checked.place}: {checked.event}: {checked.expected} is not {checked.actual}"
    assert checked.open == ()
    assert len(lines(events)) == len(events)


def test_what_was_recorded_shows_what_can_happen() -> None:
    happened = {event.fact.type for path in BUNDLES for events in Bundle(path).threads() for event in events}
    rare = {"model.failed", "run.failed", "ownership.taken"}  # failures of the engine; and no event of a thread
    assert happened >= codec.EVENT_TYPES.keys() - rare


def test_code_that_decides_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "chained", lambda previous, message: "another hash")
    assert {check(events).state for events in Bundle(BUNDLES[0]).threads()} == {"differs"}
