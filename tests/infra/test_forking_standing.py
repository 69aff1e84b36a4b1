"""A thread with a mode, grants and a goal can be forked at each of its events, and the copy goes on with no goal."""

from __future__ import annotations

import contextlib
from functools import reduce
from pathlib import Path

import msgspec
import pytest

from actors.runtime.machine import Emitted
from actors.runtime.replay import verify
from infra.bundles import Bundle
from infra.errors import ForkUnfit
from infra.forking import plan
from tests.infra.test_forking import MACHINE, decided

BUNDLE = Path(__file__).parents[1] / "golden" / "threads" / "0.1.0-standing.jsonl"
THREADS = {events[0].fact.thread: events for events in Bundle(BUNDLE).threads()}
PLACES = [(thread, at) for thread, events in THREADS.items() for at in range(1, len(events) + 1)]


@pytest.mark.parametrize(("thread", "at"), PLACES)
def test_a_fork_keeps_what_stands_but_its_goal_rests(thread: str, at: int) -> None:
    events = THREADS[thread]
    found = None
    with contextlib.suppress(ForkUnfit):
        found = plan(thread, events, at, {})
    if found is None:
        assert events[at - 1].fact.type == "command.accepted"  # of a run that is not queued yet
        return
    log = decided(found)
    assert verify(MACHINE, "default", "new", log).decisions == 1
    told = [Emitted(item.kind, item.entity, item.event()) for item in log]
    standing = reduce(MACHINE.evolve, told, MACHINE.initial("default", "new")).standing
    there = {item.type for item in log}  # what the last tool wanted follows where it had not
    assert (standing.mode != "") == ("mode.changed" in there)
    assert bool(standing.grants) == ("tool.granted" in there and "grant.withdrawn" not in there)
    if standing.goal is not None:
        assert standing.goal.status in {"paused", "done"}
        assert standing.goal.judging is None


def test_a_run_that_goes_on_with_another_model_has_it_in_every_mode() -> None:
    events = THREADS["shed"]
    started = next(number for number, event in enumerate(events, start=1) if event.fact.type == "run.started")
    fields = msgspec.json.decode(events[started - 1].fact.payload)
    fields["profile"]["modes"][0]["model"] = "thinker"
    fact = events[started - 1].fact
    changed = msgspec.structs.replace(fact, payload=msgspec.Raw(msgspec.json.encode(fields)))
    history = [*events[: started - 1], events[started - 1]._replace(fact=changed), *events[started:]]
    found = plan("shed", history, started, {"model": "other"})
    assert found.fork.profile is not None
    assert found.fork.profile["model"] == "other"
    assert "thinker" not in str(found.fork.profile)
    kept = plan("shed", history, started, {}).fork.profile
    assert kept is None or "thinker" in str(kept)
