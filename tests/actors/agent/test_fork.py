"""A thread forked at any of its events: it begins the same, goes on from there, and can be verified."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.agent.effects import CallModel, CallTool
from actors.agent.folding import Folding
from actors.agent.fork import Unfit, fold, going_on, past
from actors.agent.loop import ConversationMachine
from actors.runtime.machine import Asked, Emitted
from schemas import codec
from schemas.commands import Approve, Command
from schemas.context import Context
from schemas.forks import Change, Fork, Past
from schemas.generation import Sampling
from schemas.memory import MemoryWrite
from schemas.messages import ToolCall
from schemas.profiles import Profile
from schemas.runs import CommandRefused, ModelCalled, RunStarted, ThreadForked, ToolCalled, ToolReturned
from tests.actors.agent.test_loop import PROFILE, World, call, returned, said

MACHINE = ConversationMachine()


def scene() -> World:
    """Two runs, one queued behind the other; several tools, memory, an approval, a failure."""
    world = World("origin")
    world.ask("r1", text="first")
    world.ask("r2", text="second", approvals="ask")
    world.result(said("r1-1-m", calls=[call(1), call(2), ToolCall("c3", "nope", "{}")]))
    returned(world, "r1-1-t1")
    world.result(ToolReturned("r1-1-t0", "call-1", "ok", (MemoryWrite("a", "b"), MemoryWrite("c", "d"))))
    world.result(said("r1-2-m", "one"))
    world.result(said("r2-1-m", calls=[call(3, "pay"), call(4)]))
    returned(world, "r2-1-t1")
    world.settle("a1", Approve("r2-1-t0"))
    returned(world, "r2-1-t0")
    world.result(said("r2-2-m", "two"))
    return world


LOG = scene().log
NUMBERS = range(1, len(LOG) + 1)
STRAY = {"type": "model.returned", "effect": "r-1-m", "text": "", "finish_reason": "stop", "usage": {}}
CONTEXT = Context(now=1, seed=7)


def history(at: int) -> tuple[Past, ...]:
    return tuple(Past(item.kind, item.entity, msgspec.json.decode(item.payload)) for item in LOG[:at])  # type: ignore[arg-type]


def run_after(at: int) -> str:
    folding = Folding(MACHINE.initial("acme", "new"))
    events = past(history(at), "new")
    fold(folding, events)
    try:
        return going_on(folding.state, events) or ""
    except Unfit:
        return ""


def command(at: int, /, **more: Any) -> Command:
    run = run_after(at)
    profile = msgspec.to_builtins(PROFILE) if run else None
    data = Fork(**{"origin": "origin", "at": at, "history": history(at), "run": run, "profile": profile, **more})
    sent = Command(id="f1", tenant="acme", kind="agent", thread="new", verb="fork", data=data)
    return codec.decode(codec.encode(sent), Command)


def forked(at: int, /, **more: Any) -> World:
    """The new thread, begun."""
    world = World("new")
    asked = Asked(command(at, **more))
    world._take(MACHINE.ask(world.state, asked, CONTEXT), [], "f1")
    return world


def finish(world: World) -> World:
    """Let every tool return and the model say its last word, until nothing is under way."""
    while world.open:
        effect = next(iter(world.open.values()))
        if isinstance(effect, CallModel):
            world.result(said(effect.id, "end"))
        elif isinstance(effect, CallTool):
            returned(world, effect.id)
    return world


@pytest.mark.parametrize("at", NUMBERS)
def test_a_fork_begins_with_the_same_events_goes_on_and_verifies(at: int) -> None:
    world = forked(at)
    if world.log[0].type == "command.refused":
        assert LOG[at - 1].type == "command.accepted"  # of a run that is not queued yet
        return
    assert [(item.type, item.payload) for item in world.log[1 : 1 + at]] == [
        (item.type, item.payload) for item in LOG[:at]
    ]
    assert world.log[1 + at].type == "thread.forked"
    assert world.refolded() == world.state
    world.verified()
    finish(world)
    world.verified()
    assert all(run.over for run in world.state.runs.values()) or "r2-1-t0" in {
        item.effect for run in world.state.runs.values() for item in run.pending if item.waits
    }


@pytest.mark.parametrize("at", NUMBERS)
def test_a_fork_that_changes_nothing_ends_as_its_origin_did(at: int) -> None:
    world = forked(at)
    answers = {item.event().effect: item.event() for item in LOG if item.type in {"model.returned", "tool.returned"}}  # type: ignore[union-attr]
    while world.open:
        effect = next(iter(world.open))
        world.result(answers[effect])
    if world.log[0].type == "command.accepted" and not waits(world):
        assert world.state.notes == {"a": "b", "c": "d"}
        called = [item for item in world.log if item.type == "model.called"]
        prefixes = {item.event().effect: item.event().prefix for item in called}  # type: ignore[union-attr]
        assert (
            prefixes.items()
            <= {
                item.event().effect: item.event().prefix
                for item in LOG
                if item.type == "model.called"  # type: ignore[union-attr]
            }.items()
        )


def waits(world: World) -> bool:
    return any(item.waits and item.result is None for run in world.state.runs.values() for item in run.pending)


def test_another_model_prompt_and_seed_hold_from_there_on() -> None:
    other = msgspec.structs.replace(PROFILE, model="m2", instructions="Be brief.", sampling=Sampling(seed=5))
    called = next(number for number in NUMBERS if LOG[number - 1].type == "model.called")
    world = forked(called, profile=msgspec.to_builtins(other), changes=(Change("model", "m2"),))
    first, again = world.events(ModelCalled)
    assert (first.model, again.model, again.sampling.seed) == ("m", "m2", 5)
    assert first.effect == again.effect
    (effect,) = world.open.values()
    assert isinstance(effect, CallModel)
    assert effect.profile == other
    (marker,) = world.events(ThreadForked)
    assert (marker.origin, marker.at, marker.changes) == ("origin", called, (Change("model", "m2"),))
    assert next(iter(world.events(RunStarted))).profile.instructions == ""
    world.verified()


def test_a_tool_call_without_a_result_is_called_anew_and_one_with_is_not() -> None:
    at = next(number for number in NUMBERS if LOG[number - 1].type == "tool.returned")
    world = forked(at)
    assert list(world.open) == ["r1-1-t0"]
    assert [event.effect for event in world.events(ToolCalled)] == ["r1-1-t0", "r1-1-t1", "r1-1-t0"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"history": (Past("run", "r", {"type": "run.exploded"}),)}, "history[0]"),
        ({"history": (Past("run", "r", STRAY),)}, "history[0]"),
        ({"history": (Past("thread", "t", {"type": "thread.forked", "origin": "a", "at": 1}),)}, "history[0]"),
        ({"profile": {"agent": 5}}, "profile"),
        ({"run": "else"}, "run"),
        ({"run": "", "at": len(LOG), "history": history(len(LOG)), "profile": msgspec.to_builtins(PROFILE)}, "profile"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_names_the_field(change: dict[str, Any], field: str) -> None:
    world = forked(4, **change)
    (refused,) = world.events(CommandRefused)
    assert refused.problem.field == field
    assert refused.problem.message.startswith(field)
    world.verified()


def test_a_thread_that_exists_is_not_begun_again() -> None:
    world = forked(4)
    second = msgspec.structs.replace(command(4), id="f2")
    (event,) = world._take(MACHINE.ask(world.state, Asked(second), CONTEXT), [], "f2")
    assert isinstance(event, CommandRefused)
    assert event.problem.field == "thread"


@given(st.lists(st.sampled_from(LOG), min_size=1, max_size=8), st.sampled_from(["", "r1", "r2"]))
def test_any_events_make_a_fork_or_a_clear_refusal(items: list[Any], run: str) -> None:
    chosen = tuple(Past(item.kind, item.entity, msgspec.json.decode(item.payload)) for item in items)
    data = Fork(origin="o", at=1, history=chosen, run=run, profile=msgspec.to_builtins(PROFILE) if run else None)
    asked = Asked(Command(id="f1", tenant="acme", kind="agent", thread="new", verb="fork", data=data))
    state = MACHINE.initial("acme", "new")
    events = MACHINE.ask(state, asked, CONTEXT).events
    assert codec.tag(events[0].event) in {"command.accepted", "command.refused"}
    for emitted in events:
        state = MACHINE.evolve(state, Emitted(*emitted))


def test_the_profile_of_a_fork_is_read_as_it_is_written() -> None:
    assert msgspec.convert(msgspec.to_builtins(PROFILE), Profile) == PROFILE
