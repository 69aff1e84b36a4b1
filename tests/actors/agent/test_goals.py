"""Goals of threads, pure: one run after the other, until the judge says that it is reached or nobody may go on."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from actors.agent.goals import JudgeGoal
from actors.agent.standing import Goal
from schemas.commands import AbortRun, Approve, CancelTask
from schemas.memory import CreateThread, DeleteThread
from schemas.messages import Usage
from schemas.profiles import Profile, ToolBinding
from schemas.runs import CommandRefused, ModelFailed, Problem, RunStarted, ToolReturned
from schemas.standing import ClearGoal, GoalJudged, GoalPaused, PauseGoal, ResumeGoal, SetGoal
from schemas.tasks import TaskEnded
from tests.actors.agent.test_loop import BILLING, PROFILE, World, call, said, tags

NEXT = replace(PROFILE, instructions="newer")
GOAL = SetGoal(agent="demo", text="Empty the inbox.", budget=3)


def begun(goal: SetGoal = GOAL, profile: Profile = PROFILE) -> World:
    world = World()
    world.settle("g", goal, profile)
    return world


def goal(world: World) -> Goal:
    found = world.refolded().standing.goal
    assert found is not None
    assert found == world.state.standing.goal
    return found


def judged(world: World, run: str, verdict: Any, reason: str = "", **more: Any) -> list[str]:
    profile = NEXT if verdict == "go_on" else None
    return tags(world.result(GoalJudged(f"{run}-1-g", verdict, reason, profile, **more)))


def refusal(events: list[Any]) -> Problem:
    (refused,) = events
    assert isinstance(refused, CommandRefused)
    return refused.problem


def users(world: World) -> list[str]:
    return [message.content for message in world.state.messages if message.role == "user"]


FIRST = ["command.accepted", "goal.set", "command.accepted", "message.added", "run.started", "model.called"]


def test_the_thread_goes_on_by_itself_until_the_judge_says_that_it_is_reached() -> None:
    world = World()
    assert tags(world.settle("g", GOAL, PROFILE)) == FIRST
    assert tags(world.result(said("g-g1-1-m", "half"))) == ["run.finished", "goal.judging"]
    (effect,) = world.open.values()
    assert isinstance(effect, JudgeGoal)
    assert (effect.goal.text, effect.asked.agent, effect.messages[-1].content) == (GOAL.text, "demo", "half")
    events = judged(world, "g-g1", "go_on", "two letters are left", usage=Usage(5, 1), cost=0.5)
    assert events == ["command.accepted", "message.added", "run.started", "model.called"]
    assert users(world)[-1] == "The goal is not reached yet: two letters are left\nGo on.\nThe goal: Empty the inbox."
    assert world.events(RunStarted)[-1].profile == NEXT
    world.result(said("g-g2-1-m", "all"))
    assert judged(world, "g-g2", "done", "it is empty") == []
    stands = goal(world)
    assert (stands.status, stands.reason, stands.runs) == ("done", "it is empty", 2)
    assert (stands.usage, stands.cost) == (Usage(5, 1), 0.5)
    assert not world.open
    world.verified()


def test_each_step_of_it_survives_a_crash() -> None:
    world = begun()
    world.crash()
    world.result(said("g-g1-1-m", "half"))
    world.crash()
    assert list(world.open) == ["g-g1-1-g"]
    judged(world, "g-g1", "go_on")
    world.crash()
    assert list(world.open) == ["g-g2-1-m"]
    world.verified()


def test_a_budget_that_is_used_up_pauses_it_and_more_lets_it_go_on() -> None:
    world = begun(replace(GOAL, budget=1))
    world.result(said("g-g1-1-m", "half"))
    assert judged(world, "g-g1", "go_on", "more to do") == ["goal.paused"]
    assert goal(world).reason == "its budget of 1 runs is used up: more to do"
    problem = refusal(world.settle("r1", ResumeGoal(), PROFILE))
    assert (problem.field, "1 runs" in problem.message) == ("budget", True)
    events = tags(world.settle("r2", ResumeGoal(2), NEXT))
    assert events[:3] == ["command.accepted", "goal.resumed", "command.accepted"]
    world.result(said("g-g2-1-m", "all"))
    judged(world, "g-g2", "done")
    assert goal(world).status == "done"
    world.verified()


@pytest.mark.parametrize("edition", [1, 2])
def test_a_run_that_fails_pauses_it(edition: int) -> None:
    world = begun(profile=replace(PROFILE, edition=edition))
    events = tags(world.result(ModelFailed("g-g1-1-m", Problem(kind="engine", message="gone"))))
    assert events == ["run.failed", "goal.paused"]
    assert goal(world).reason == "run 'g-g1' failed: gone"
    world.verified()


@pytest.mark.parametrize("verdict", ["failed", "go_on"])
def test_a_judge_that_cannot_tell_pauses_it(verdict: Any) -> None:
    world = begun()
    world.result(said("g-g1-1-m", "half"))
    assert tags(world.result(GoalJudged("g-g1-1-g", verdict, "no model"))) == ["goal.paused"]
    assert goal(world).reason == "no model"
    world.verified()


def test_an_abort_pauses_it() -> None:
    world = begun()
    assert tags(world.settle("x", AbortRun()))[-1] == "goal.paused"
    assert not world.open
    world.verified()


@pytest.mark.parametrize("how", ["fails", "is aborted"])
def test_a_run_that_fails_pauses_it_although_another_waits(how: str) -> None:
    world = begun(profile=replace(PROFILE, edition=2))
    world.ask("c1", text="and water the plants")
    problem = Problem(kind="engine", message="gone")
    events = world.result(ModelFailed("g-g1-1-m", problem)) if how == "fails" else world.settle("x", AbortRun())
    assert tags(events).count("goal.paused") == 1
    assert "run 'g-g1' failed: " in goal(world).reason
    assert tags(world.result(said("c1-1-m", "watered"))) == ["run.finished"]
    assert (goal(world).status, world.open) == ("paused", {})
    world.verified()


def test_a_run_that_is_aborted_before_it_began_pauses_it() -> None:
    world = World()
    world.ask("c1", text="hi")
    world.settle("g", GOAL, replace(PROFILE, edition=2))
    assert tags(world.settle("x", AbortRun("g-g1"))) == ["command.accepted", "run.failed", "goal.paused"]
    assert tags(world.result(said("c1-1-m", "hello"))) == ["run.finished"]
    world.verified()


def test_a_run_of_the_users_that_fails_does_not_pause_it_while_the_goals_waits() -> None:
    world = World()
    edited = replace(PROFILE, edition=2)
    world.ask("c1", edited, text="hi")
    world.settle("g", GOAL, edited)
    assert "goal.paused" not in tags(world.settle("x", AbortRun("c1")))
    world.result(said("g-g1-1-m", "half"))
    assert goal(world).status == "active"
    world.verified()


def test_a_pause_lets_the_run_end_and_begins_none() -> None:
    world = begun()
    assert tags(world.settle("p", PauseGoal("enough"))) == ["command.accepted", "goal.paused"]
    assert tags(world.result(said("g-g1-1-m", "half"))) == ["run.finished"]
    assert "is paused, not active or waiting" in refusal(world.settle("p2", PauseGoal())).message
    assert users(world) == ["Empty the inbox."]
    world.settle("r", ResumeGoal(), PROFILE)
    assert users(world)[-1] == "Go on.\nThe goal: Empty the inbox."
    world.verified()


def test_what_the_judge_says_of_a_goal_that_was_paused_or_cleared_meanwhile_begins_nothing() -> None:
    world = begun()
    world.result(said("g-g1-1-m", "half"))
    world.settle("p", PauseGoal())
    assert judged(world, "g-g1", "go_on") == []
    assert goal(world).status == "paused"
    world.settle("r", ResumeGoal(), PROFILE)
    world.result(said("g-g2-1-m", "half"))
    world.settle("c", ClearGoal())
    assert not world.open  # nobody waits for the judge
    assert world.state.standing.goal is None
    world.verified()


def test_the_user_is_waited_for_and_whatever_he_says_has_it_go_on() -> None:
    world = begun()
    world.result(said("g-g1-1-m", "which one?"))
    assert judged(world, "g-g1", "waiting", "which inbox") == []
    assert goal(world).status == "waiting"
    world.ask("c1", text="the red one")
    assert goal(world).status == "active"
    assert tags(world.result(said("c1-1-m", "the red one"))) == ["run.finished", "goal.judging"]
    judged(world, "c1", "go_on", "it is not empty")
    assert goal(world).runs == 2
    world.verified()


def test_a_run_of_the_users_goes_first_and_is_judged_in_its_place() -> None:
    world = begun()
    world.ask("c1", text="and water the plants")
    assert "goal.judging" not in tags(world.result(said("g-g1-1-m", "half")))
    world.result(said("c1-1-m", "watered"))
    assert list(world.open) == ["c1-1-g"]
    world.ask("c2", text="and feed the cat")
    assert judged(world, "c1", "go_on") == []  # one is under way, whose end is judged anew
    assert tags(world.result(said("c2-1-m", "fed"))) == ["run.finished", "goal.judging"]
    judged(world, "c2", "done")
    assert goal(world).status == "done"
    world.verified()


def test_a_run_that_ends_while_an_older_one_is_judged_is_judged_after_it() -> None:
    world = begun()
    world.result(said("g-g1-1-m", "half"))
    world.ask("c1", text="hurry")
    assert tags(world.result(said("c1-1-m", "hurried"))) == ["run.finished"]
    assert judged(world, "g-g1", "waiting") == ["goal.judging"]
    assert list(world.open) == ["c1-1-g"]
    assert goal(world).status == "active"
    world.verified()


@pytest.mark.parametrize("edition", [1, 2])
def test_a_run_that_takes_the_place_of_another_does_not_pause_it(edition: int) -> None:
    world = begun(profile=replace(PROFILE, edition=edition))
    assert "goal.paused" not in tags(world.ask("c1", text="no, this", when_busy="replace"))
    assert goal(world).status == "active"
    world.result(said("c1-1-m", "done"))
    assert list(world.open) == ["c1-1-g"]
    world.verified()


def test_a_goal_in_a_busy_thread_waits_its_turn() -> None:
    world = World()
    world.ask("c1", text="hi")
    assert tags(world.settle("g", GOAL, PROFILE)) == ["command.accepted", "goal.set", "command.accepted", "run.queued"]
    assert "run.started" in tags(world.result(said("c1-1-m", "hello")))
    world.result(said("g-g1-1-m", "all"))
    judged(world, "g-g1", "done")
    assert tags(world.settle("g2", GOAL, PROFILE)) == FIRST  # the one before is reached
    world.verified()


def test_a_settled_call_that_ends_the_run_has_it_judged() -> None:
    world = World()
    world.settle("g", GOAL, replace(PROFILE, stop_tools=("pay",)))
    world.result(said("g-g1-1-m", "", [call(1, "pay")]))
    world.settle("a", Approve("g-g1-1-t0"))
    assert tags(world.result(ToolReturned("g-g1-1-t0", "call-1", "paid"))) == ["run.finished", "goal.judging"]
    world.verified()


def test_the_next_run_is_of_whoever_has_the_thread_by_then() -> None:
    world = begun()
    world.result(said("g-g1-1-m", "half"))
    world.result(GoalJudged("g-g1-1-g", "go_on", "", BILLING))
    run = world.state.commands["g-g2"].data
    assert run.agent == "billing"  # type: ignore[union-attr]


def dug(*told: str) -> World:
    """Begin a goal whose first run has a task begun, says so, and ends."""
    tools = (ToolBinding("dig", "once", "d7", background=True),)
    world = World()
    world.settle("g", GOAL, replace(PROFILE, tools=tools, edition=2))
    world.result(said("g-g1-1-m", "", [call(at, "dig") for at in range(len(told))]))
    assert tags(world.result(said("g-g1-2-m", "begun"))) == ["run.finished"]
    world.crash()
    assert list(world.open) == [f"g-g1-1-t{at}b" for at in range(len(told))]
    return world


def test_the_judge_waits_for_what_goes_on_in_the_background() -> None:
    world = dug("one", "two")
    assert "run.started" in tags(world.result(TaskEnded("g-g1-1-t0b", "returned", "one")))
    assert tags(world.result(said("g-g1-1-t0b-1-m", "one is done"))) == ["run.finished"]
    world.result(TaskEnded("g-g1-1-t1b", "returned", "two"))
    assert tags(world.result(said("g-g1-1-t1b-1-m", "both are"))) == ["run.finished", "goal.judging"]
    judged(world, "g-g1-1-t1b", "done")
    assert (goal(world).status, goal(world).runs) == ("done", 1)
    world.verified()


def test_a_task_that_is_cancelled_is_not_waited_for() -> None:
    world = dug("one", "two")
    assert "goal.judging" not in tags(world.settle("x1", CancelTask("g-g1-1-t0b")))
    assert refusal(world.settle("x2", CancelTask("g-g1-1-t0b"))).field == "task"
    assert tags(world.settle("x3", CancelTask("g-g1-1-t1b")))[-1] == "goal.judging"
    assert list(world.open) == ["g-g1-2-g"]
    world.verified()


def test_what_does_not_fit_is_refused_and_names_the_mend() -> None:
    world = World()
    steering = (("p", PauseGoal()), ("r", ResumeGoal()), ("c", ClearGoal()))
    for name, data in steering:
        assert refusal(world.settle(name, data, PROFILE)).kind == "unknown_thread"
    world.settle("t", CreateThread(), PROFILE)
    for name, data in steering:
        assert "has no goal" in refusal(world.settle(f"{name}2", data, PROFILE)).message
    world.settle("g", GOAL, PROFILE)
    assert "goal_clear" in refusal(world.settle("g2", GOAL, PROFILE)).message
    world.verified()
    other = World()
    assert refusal(other.settle("g", replace(GOAL, context={"x": "y" * 20_000}), PROFILE)).field == "context"


def test_a_deleted_thread_has_no_goal() -> None:
    world = begun()
    world.settle("d", DeleteThread())
    assert world.state.standing.goal is None
    assert "goal.paused" not in [item.type for item in world.log]
    assert not world.events(GoalPaused)
    world.verified()
