"""Every event of threads that a real stack recorded can be forked at, and what is decided then verifies."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import pytest

from actors.agent.loop import ConversationMachine
from actors.runtime.machine import Asked
from actors.runtime.replay import Recorded, verify
from bus.store import StoredEvent
from infra.bundles import Bundle
from infra.errors import ForkUnfit
from infra.forking import Plan, parsed, plan
from schemas import codec
from schemas.commands import Command
from schemas.context import Context

MACHINE = ConversationMachine()
(BUNDLE,) = (Path(__file__).parents[1] / "golden" / "threads").glob("0.1.0.jsonl")
THREADS = {events[0].fact.thread: events for events in Bundle(BUNDLE).threads()}
PLACES = [
    (thread, at)
    for thread, events in THREADS.items()
    if events[0].fact.kind != "generation"
    for at in range(1, len(events) + 1)
]


def decided(found: Plan) -> list[Recorded]:
    """The new thread's first events, as the log would have them."""
    sent = Command(id="f1", tenant="default", kind="agent", thread="new", verb="fork", data=found.fork)
    command = codec.decode(codec.encode(sent), Command)
    state = MACHINE.initial("default", "new")
    versions: dict[tuple[str, str], int] = {}
    log = []
    for emitted in MACHINE.ask(state, Asked(command), Context(now=1, seed=1)).events:
        key = (emitted.kind, emitted.entity)
        versions[key] = versions.get(key, 0) + 1
        payload = codec.encode(emitted.event)
        log.append(Recorded("1/0", 1, *key, versions[key], codec.tag(emitted.event), payload, "f1", 1))
    return log


@pytest.mark.parametrize(("thread", "at"), PLACES)
def test_a_fork_at_any_recorded_event_holds_what_was_before_it_and_verifies(thread: str, at: int) -> None:
    events = THREADS[thread]
    found = None
    with contextlib.suppress(ForkUnfit):
        found = plan(thread, events, at, {})
    if found is None:
        # a run that is not queued yet, or a fork's own first event
        assert events[at - 1].fact.type == "command.accepted"
        return
    log = decided(found)
    assert log[0].type == "command.accepted"
    assert verify(MACHINE, "default", "new", log).decisions == 1
    marker = next(number for number, item in enumerate(log) if item.type == "thread.forked")
    kept = [event.fact for event in events[:at] if not of_a_fork(event)]
    assert [(item.type, item.payload) for item in log[1:marker]] == [(fact.type, bytes(fact.payload)) for fact in kept]


def of_a_fork(event: StoredEvent) -> bool:
    fields = msgspec.json.decode(event.fact.payload)
    return event.fact.type == "thread.forked" or fields.get("command", {}).get("verb") == "fork"


def test_a_fork_of_a_fork_goes_on_with_what_the_first_one_changed() -> None:
    events = THREADS["forked-again"]
    marker = next(number for number, event in enumerate(events, start=1) if event.fact.type == "thread.forked")
    found = plan("forked-again", events, marker + 1, {"seed": "7"})
    assert found.fork.profile is not None
    assert found.fork.profile["instructions"] == "Be brief."
    assert found.fork.profile["sampling"]["seed"] == 7


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        (["model"], "write NAME=VALUE"),
        (["speed=1"], "NAME is one of model, prompt, seed, message, tool_result"),
        (["seed=1", "seed=2"], "--set seed: it is given twice"),
        (["message=a", "tool_result=b"], "one event cannot be both"),
    ],
)
def test_changes_that_cannot_be_read_are_named(pairs: list[str], says: str) -> None:
    with pytest.raises(ForkUnfit, match=says):
        parsed(pairs)


def test_a_change_may_hold_anything_after_the_first_equals_sign() -> None:
    assert parsed(["prompt=a=b\nc", "model="]) == {"prompt": "a=b\nc", "model": ""}


def test_a_bare_generation_cannot_be_forked() -> None:
    with pytest.raises(ForkUnfit, match="ID: 'generation' is a bare generation"):
        plan("generation", THREADS["generation"], 1, {})


def test_what_was_deleted_is_not_gone_on_with() -> None:
    events = next(events for events in THREADS.values() if events[0].fact.kind == "thread")
    payload = msgspec.Raw(b'{"type":"thread.deleted"}')
    fact = msgspec.structs.replace(events[0].fact, type="thread.deleted", payload=payload)
    with pytest.raises(ForkUnfit, match="was deleted"):
        plan("t", [*events, events[-1]._replace(fact=fact)], 2, {})
