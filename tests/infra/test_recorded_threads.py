"""Threads that a real stack recorded must be decided the same for ever: an old log is not wrong, new code would be.

Each bundle in `tests/golden/threads` was exported with `--no-redact` by the version it is named after, and is never
changed. Where decisions change on purpose, the new way must tell old records by what they hold, as the codec does.
"""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import pytest

from actors.machines import MACHINES
from actors.runtime.cells import FAMILY
from actors.runtime.frozen import frozen, thawed
from actors.runtime.machine import Emitted
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
    # what ended before that erased anything is erased when its shard is taken
    assert checked.open == _unerased(events)
    assert len(lines(events)) == len(events)


def _unerased(events: list[StoredEvent]) -> tuple[str, ...]:
    types, thread = {event.fact.type for event in events}, events[0].fact.thread
    if "thread.deleted" in types and "thread.erased" not in types:
        return (f"{thread}-e",)
    return (f"{thread}-c",) if "schedule.removed" in types and "schedule.closed" not in types else ()


@pytest.mark.parametrize("events", THREADS)
def test_a_fold_from_a_snapshot_at_any_event_equals_the_fold_from_zero(events: list[StoredEvent]) -> None:
    facts = [event.fact for event in events if event.fact.kind in FAMILY]
    machine = MACHINES[FAMILY[facts[0].kind]]
    emitted = [Emitted(fact.kind, fact.entity, codec.event_of(fact)) for fact in facts]
    versions = {(fact.kind, fact.entity): fact.version for fact in facts}
    initial = machine.initial(facts[0].tenant, facts[0].thread)
    whole = reduce(machine.evolve, emitted, initial)
    for at in range(len(emitted) + 1):
        kept = frozen(versions, reduce(machine.evolve, emitted[:at], initial))
        assert thawed(machine, kept)[0] == versions
        assert reduce(machine.evolve, emitted[at:], thawed(machine, kept)[1]) == whole


def test_what_was_recorded_shows_what_can_happen() -> None:
    happened = {event.fact.type for path in BUNDLES for events in Bundle(path).threads() for event in events}
    rare = {"model.failed", "run.failed", "ownership.taken"}  # failures of the engine; and no event of a thread
    assert happened >= codec.EVENT_TYPES.keys() - rare


def test_code_that_decides_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "chained", lambda previous, message: "another hash")
    assert {check(events).state for events in Bundle(BUNDLES[0]).threads()} == {"differs"}
