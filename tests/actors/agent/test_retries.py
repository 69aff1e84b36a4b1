"""Asking the model again: for which reasons, how long after, how often, and what ends the waiting."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.agent.definition import Agent
from actors.agent.profiles import profile_of
from actors.agent.retries import AwaitRetry, may_pass, wait_us
from actors.errors import DefinitionError, Divergence
from actors.runtime.machine import Asked
from actors.runtime.replay import verify
from actors.toolsets import Surroundings
from schemas import codec
from schemas.commands import AbortRun, Command, RunAgent
from schemas.context import Context
from schemas.forks import Fork, Past
from schemas.profiles import Profile, Retries
from schemas.runs import (
    DeadlinePassed,
    ErrorKind,
    ModelCalled,
    ModelFailed,
    Problem,
    RetryDue,
    RetryScheduled,
    RunFailed,
    RunFinished,
)
from tests.actors.agent.test_loop import MACHINE, PATIENT, PROFILE, World, call, mutated, returned, said, tags

BUSY = Problem(kind="overloaded", message="too many are waiting", retry_after_ms=40)


def test_a_call_that_failed_for_a_reason_that_may_pass_is_made_again_after_a_wait() -> None:
    world = World()
    world.ask("c1", PATIENT, text="hi")
    (scheduled,) = world.result(ModelFailed("c1-1-m", BUSY))
    assert isinstance(scheduled, RetryScheduled)
    assert (scheduled.effect, scheduled.attempt, scheduled.kind) == ("c1-1-r2", 2, "overloaded")
    (waiting,) = world.open.values()
    assert isinstance(waiting, AwaitRetry)
    assert waiting.at == scheduled.at == scheduled.decided + wait_us(PATIENT.retries, 1, BUSY, scheduled.chance)
    world.crash()
    assert list(world.open) == ["c1-1-r2"]
    (called,) = world.result(RetryDue("c1-1-r2"))
    assert isinstance(called, ModelCalled)
    assert (called.effect, called.step) == ("c1-1-m2", 1)
    (finished,) = world.result(said("c1-1-m2", "hello"))
    assert isinstance(finished, RunFinished)
    assert finished.steps == 1
    world.verified()


def test_the_last_failure_ends_the_run_and_says_how_often_it_was_tried() -> None:
    world = World()
    world.ask("c1", PATIENT, text="hi")
    for attempt, name in ((2, "c1-1-m"), (3, "c1-1-m2")):
        world.result(ModelFailed(name, BUSY))
        world.result(RetryDue(f"c1-1-r{attempt}"))
    (failed,) = world.result(ModelFailed("c1-1-m3", BUSY))
    assert isinstance(failed, RunFailed)
    assert failed.problem.message == "too many are waiting (the model was asked 3 times)"
    assert not world.open
    world.verified()


def test_a_further_step_has_all_its_attempts() -> None:
    world = World()
    world.ask("c1", PATIENT, text="hi")
    world.result(ModelFailed("c1-1-m", BUSY))
    world.result(RetryDue("c1-1-r2"))
    world.result(said("c1-1-m2", "", [call(1)]))
    returned(world, "c1-1-t0")
    (scheduled,) = world.result(ModelFailed("c1-2-m", BUSY))
    assert isinstance(scheduled, RetryScheduled)
    assert scheduled.effect == "c1-2-r2"
    world.verified()


@pytest.mark.parametrize(
    ("kind", "after", "passes"),
    [
        ("overloaded", 0, True),
        ("timeout", 0, True),
        ("engine", 1000, True),
        ("engine", 0, False),
        ("invalid", 1000, False),
        ("too_long", 1000, False),
        ("unknown_model", 1000, False),
    ],
)
def test_only_what_may_pass_is_waited_for(kind: ErrorKind, after: int, passes: bool) -> None:
    problem = Problem(kind=kind, message="no", retry_after_ms=after)
    assert may_pass(problem) == passes
    world = World()
    world.ask("c1", PATIENT, text="hi")
    (event,) = world.result(ModelFailed("c1-1-m", problem))
    assert isinstance(event, RetryScheduled if passes else RunFailed)
    world.verified()


def test_a_run_that_was_recorded_before_there_were_retries_has_none() -> None:
    old = codec.decode(codec.encode(PROFILE), Profile)
    assert b"retries" not in codec.encode(PROFILE)
    world = World()
    world.ask("c1", old, text="hi")
    assert world.result(ModelFailed("c1-1-m", BUSY)) == [RunFailed(problem=BUSY, steps=1)]
    world.verified()


@given(
    first=st.integers(0, 86_400_000),
    longest=st.integers(0, 86_400_000),
    again=st.integers(1, 100),
    after=st.integers(0, 60_000),
    chance=st.integers(0, (1 << 48) - 1),
)
def test_a_wait_is_bounded_and_never_shorter_than_the_engine_asks(
    first: int, longest: int, again: int, after: int, chance: int
) -> None:
    problem = Problem(kind="overloaded", message="", retry_after_ms=after)
    wait = wait_us(Retries(100, first, longest), again, problem, chance)
    assert after * 1000 <= wait <= max(after * 1000, longest * 500) + longest * 500
    assert wait >= min(first * 500, longest * 500)


def test_waits_grow_and_differ_by_chance() -> None:
    retries, problem = Retries(5, 100, 1000), Problem(kind="overloaded", message="")
    assert [wait_us(retries, again, problem, 0) for again in (1, 2, 3, 4, 5)] == [
        50_000,
        100_000,
        200_000,
        400_000,
        500_000,
    ]
    assert len({wait_us(retries, 1, problem, chance) for chance in range(1000)}) == 1000


@pytest.mark.parametrize("ends", ["deadline", "abort"])
def test_a_deadline_or_an_abort_ends_a_waiting_run_at_once_and_the_next_begins(ends: str) -> None:
    world = World()
    world.ask("c1", PATIENT, text="hi", deadline=10_000_000)
    world.ask("c2", text="and I?")
    world.result(ModelFailed("c1-1-m", BUSY))
    assert set(world.open) == {"c1-d", "c1-1-r2"}
    events = world.result(DeadlinePassed("c1-d")) if ends == "deadline" else world.settle("a1", AbortRun(run="c1"))
    assert [tag for tag in tags(events) if tag != "command.accepted"][:1] == ["run.failed"]
    assert list(world.open) == ["c2-1-m"]
    world.verified()


def test_a_wait_that_was_altered_in_the_record_is_found() -> None:
    world = World()
    world.ask("c1", PATIENT, text="hi")
    world.result(ModelFailed("c1-1-m", BUSY))

    def sooner(fields: dict[str, Any]) -> None:
        fields["at"] -= 1

    log = [mutated(item, sooner) if item.type == "retry.scheduled" else item for item in world.log]
    with pytest.raises(Divergence, match="at="):
        verify(MACHINE, "acme", "t1", log)


@pytest.mark.parametrize(
    ("last", "asks"),
    [("model.called", "c1-1-m"), ("retry.scheduled", "c1-1-m2"), ("retry.due", "c1-1-m2")],
)
def test_a_fork_does_not_wait_and_counts_on(last: str, asks: str) -> None:
    origin = World()
    origin.ask("c1", PATIENT, text="hi")
    origin.result(ModelFailed("c1-1-m", BUSY))
    origin.result(RetryDue("c1-1-r2"))
    at = next(number for number, item in enumerate(origin.log, start=1) if item.type == last)
    history = tuple(Past(item.kind, item.entity, msgspec.json.decode(item.payload)) for item in origin.log[:at])  # type: ignore[arg-type]
    data = Fork(origin="t1", at=at, history=history, run="c1")
    world = World("t2")
    command = Command(id="f1", tenant="acme", kind="agent", thread="t2", verb="fork", data=data)
    events = world._take(MACHINE.ask(world.state, Asked(command), Context(now=1, seed=1)), [], "f1")
    assert tags(events)[-2:] == ["thread.forked", "model.called"]
    assert list(world.open) == [asks]
    world.result(said(asks, "hello"))
    assert world.state.runs["c1"].step == 1
    world.verified()


@pytest.mark.parametrize("retries", [-1, 101, 1.5, "2"])
def test_an_agents_retries_are_a_number_that_makes_sense(retries: Any) -> None:
    with pytest.raises(DefinitionError, match="retries"):
        Agent(name="a", instructions="", retries=retries)


@pytest.mark.anyio
async def test_an_agents_runs_record_its_retries() -> None:
    asked = (RunAgent(agent="a"), Surroundings(), "m")
    profiles = [await profile_of(agent, *asked) for agent in (Agent("a", ""), Agent("a", "", retries=0))]
    assert [profile.retries.most for profile in profiles] == [2, 0]
