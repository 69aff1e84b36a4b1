"""What runs and agents have to do with one another, pure: joining, handing over, ending with one another, and cost."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from actors.agent.delegation import child_end
from schemas.commands import AbortRun, CancelTask, Parent
from schemas.delegation import ChildDisowned, ChildEnded, RunHandedOver, RunJoined
from schemas.memory import DeleteThread
from schemas.messages import Message, Usage
from schemas.runs import (
    CommandRefused,
    Event,
    ModelFailed,
    Problem,
    RunFailed,
    RunFinished,
    RunQueued,
    RunStarted,
    ToolFailed,
    ToolReturned,
)
from schemas.tasks import TaskEnded
from tests.actors.agent.test_loop import BILLING, PROFILE, WHOLE, World, call, returned, roles, said, tags

EDITED = replace(WHOLE, prepares=False, observed=False, tool_concurrency=0, most_tokens=0, stop_tools=())


def test_what_is_said_meanwhile_joins_after_the_tools_under_way_have_returned() -> None:
    world = World()
    world.ask("c1", text="one")
    world.result(said("c1-1-m", "", [call(1), call(2)]))
    assert tags(world.ask("c2", text="and be quick", when_busy="steer")) == ["command.accepted", "run.queued"]
    returned(world, "c1-1-t0")
    events = returned(world, "c1-1-t1")
    assert tags(events) == ["message.added", "run.joined", "model.called"]
    assert world.events(RunJoined) == [RunJoined(into="c1", step=2)]
    assert roles(world) == ["user", "assistant", "tool", "tool", "user"]
    world.crash()
    assert world.open["c1-2-m"].messages[-1] == Message("user", "and be quick")  # type: ignore[attr-defined]
    world.result(said("c1-2-m", "done"))
    assert [event.text for event in world.events(RunFinished)] == ["done"]
    assert world.state.runs["c2"].over
    world.verified()


def test_what_is_said_during_the_last_answer_has_the_run_go_on() -> None:
    world = World()
    world.ask("c1", text="one")
    world.ask("c2", text="two", when_busy="steer")
    assert tags(world.result(said("c1-1-m", "one it is"))) == ["message.added", "run.joined", "model.called"]
    world.result(said("c1-2-m", "and two"))
    assert roles(world) == ["user", "assistant", "user", "assistant"]
    world.verified()


def test_what_could_not_join_is_a_run_of_its_own_before_those_that_only_wait() -> None:
    world = World()
    world.ask("c1", replace(PROFILE, max_steps=1), text="one")
    world.ask("c2", text="two")
    world.ask("c3", text="three", when_busy="steer")
    world.ask("c4", text="four", when_busy="steer")
    assert [event.joins for event in world.events(RunQueued)] == [False, True, True]
    assert world.state.queue == ("c3", "c4", "c2")
    events = world.result(said("c1-1-m", "one it is"))
    assert tags(events)[:3] == ["run.finished", "message.added", "run.started"]
    assert world.events(RunJoined) == [RunJoined(into="c3", step=1)]
    world.result(said("c3-1-m", "three and four"))
    world.result(said("c2-1-m", "two"))
    assert [message.content for message in world.state.messages if message.role == "user"] == [
        "one", "three", "four", "two",
    ]  # fmt: skip
    world.verified()


def test_what_is_said_to_a_thread_at_rest_is_a_run() -> None:
    world = World()
    assert "run.started" in tags(world.ask("c1", text="one", when_busy="steer"))


def test_what_joined_a_prompt_that_was_too_long_is_taken_back_with_it() -> None:
    world = World()
    world.ask("c1", replace(PROFILE, max_steps=1), text="one")
    world.ask("c2", text="two", when_busy="steer")
    world.ask("c3", text="three", when_busy="steer")
    world.result(said("c1-1-m", "one it is"))
    world.result(ModelFailed("c2-1-m", Problem(kind="too_long", message="too long")))
    assert roles(world) == ["user", "assistant"]
    world.verified()


def test_a_thread_is_handed_over_between_two_steps_and_bounds_stay() -> None:
    world = World()
    world.ask("c1", EDITED, text="bill me")
    world.result(said("c1-1-m", "", [call(1, "bill"), call(2), call(3, "bill")]))
    assert [event.content for event in world.events(ToolFailed)] == ["error: the thread is handed to somebody already"]
    world.result(ToolReturned("c1-1-t0", "call-1", "it is billing's", handover=BILLING))
    assert world.state.runs["c1"].profile.agent == "demo"
    world.crash()
    events = returned(world, "c1-1-t1")
    assert events[0] == RunHandedOver(effect="c1-1-t0", agent="billing", by="demo")
    assert world.open["c1-2-m"].profile.instructions == "Bill."  # type: ignore[attr-defined]
    assert world.state.holder("demo") == "billing"
    assert world.state.holder("legal") == "legal"
    world.result(said("c1-2-m", "billed"))
    world.verified()


def test_a_thread_that_was_handed_back_is_the_first_ones_again() -> None:
    world = World()
    back = replace(EDITED, agent="demo")
    world.ask("c1", EDITED, text="bill me")
    world.result(said("c1-1-m", "", [call(1, "bill")]))
    world.result(ToolReturned("c1-1-t0", "call-1", "it is billing's", handover=replace(EDITED, agent="billing")))
    world.result(said("c1-2-m", "", [call(2, "bill")]))
    world.result(ToolReturned("c1-2-t0", "call-2", "it is yours", handover=back))
    assert [world.state.holder(name) for name in ("demo", "billing")] == ["demo", "demo"]
    world.verified()


def test_whose_run_ends_has_the_runs_that_it_asked_for_ended_by_whoever_owns_the_thread() -> None:
    world = World()
    world.ask("c1", EDITED, text="work")
    world.result(said("c1-1-m", "", [call(1, "worker"), call(2)]))
    events = world.settle("a1", AbortRun())
    assert [event for event in events if isinstance(event, ChildDisowned)] == [ChildDisowned(effect="c1-1-t0x")]
    assert list(world.open) == ["c1-1-t0x"]
    world.crash()
    assert list(world.open) == ["c1-1-t0x"]
    assert world.result(ChildEnded("c1-1-t0x")) == []
    world.crash()
    assert not world.open
    world.verified()


def test_a_thread_that_is_deleted_ends_them_all_the_same() -> None:
    world = World()
    world.ask("c1", EDITED, text="work")
    world.result(said("c1-1-m", "", [call(1, "worker")]))
    world.settle("d1", DeleteThread())
    world.crash()
    assert list(world.open) == ["c1-1-t0x", "t1-e"]
    world.result(ChildEnded("c1-1-t0x"))
    world.verified()


def priced(effect: str, cost: float | None, text: str = "so", calls: tuple[object, ...] = ()) -> object:
    return replace(said(effect, text, calls), cost=cost)  # type: ignore[arg-type]


def test_what_a_run_took_is_told_at_its_end_with_all_that_it_asked_for() -> None:
    world = World()
    world.ask("c1", EDITED, text="work")
    world.result(priced("c1-1-m", 0.25, "", (call(1, "worker"), call(2, "worker"))))
    world.result(ToolReturned("c1-1-t0", "call-1", "done", usage=Usage(10, 10), cost=0.5))
    world.result(ToolFailed("c1-1-t1", "call-2", "error: no", usage=Usage(1, 1), cost=1.0))
    world.result(priced("c1-2-m", 0.125))
    (finished,) = world.events(RunFinished)
    assert (finished.usage, finished.cost) == (Usage(17, 15, 2), 1.875)
    world.ask("c2", EDITED, text="again")
    world.result(ModelFailed("c2-1-m", Problem(kind="tripwire", message="no"), usage=Usage(3, 4), cost=0.5))
    (failed,) = world.events(RunFailed)
    assert (failed.usage, failed.cost) == (Usage(3, 4), 0.5)
    world.verified()


def test_what_is_not_known_of_a_part_is_not_known_of_the_whole() -> None:
    world = World()
    world.ask("c1", EDITED, text="work")
    world.result(priced("c1-1-m", 0.25, "", (call(1, "worker"),)))
    world.result(ToolReturned("c1-1-t0", "call-1", "done", usage=Usage(10, 10), cost=None))
    world.result(priced("c1-2-m", 0.25))
    assert world.events(RunFinished)[0].cost is None
    world.verified()


def test_a_run_that_has_cost_enough_takes_no_further_step() -> None:
    world = World()
    for name, cost, why in (("c1", 1.0, "cost"), ("c2", None, "cost unknown")):
        world.ask(name, replace(EDITED, most_cost=1.0), text="work")
        world.result(priced(f"{name}-1-m", cost, "let me see", (call(1),)))
        returned(world, f"{name}-1-t0")
        assert world.events(RunFinished)[-1].stopped_by == why
    world.verified()


def test_an_older_run_is_decided_as_it_was() -> None:
    world = World()
    older = replace(EDITED, edition=0)
    world.ask("c1", older, text="work")
    world.result(priced("c1-1-m", 0.5, "", (call(1, "worker"),)))
    assert not [event for event in world.settle("a1", AbortRun()) if isinstance(event, ChildDisowned)]
    (failed,) = world.events(RunFailed)
    assert (failed.usage, failed.cost) == (Usage(), None)
    assert world.events(RunStarted)[0].profile.edition == 0
    world.verified()


def dug(world: World, outcome: str = "returned") -> list[Event]:
    return world.result(TaskEnded("c1-1-t0b", outcome, "gold", usage=Usage(5, 5), cost=0.5))  # type: ignore[arg-type]


def test_what_goes_on_in_the_background_is_told_of_in_a_turn_of_its_own() -> None:
    world = World()
    world.ask("c1", EDITED, text="dig", context={"user": "ann"})
    events = world.result(priced("c1-1-m", 0.25, "", (call(1, "dig"),)))
    assert tags(events) == ["task.started", "tool.returned", "model.called"]
    world.result(priced("c1-2-m", 0.25))
    world.crash()
    assert list(world.open) == ["c1-1-t0b"]
    assert tags(dug(world)) == ["command.accepted", "message.added", "run.started", "model.called"]
    assert "gold" in world.state.messages[-1].content
    assert world.state.commands["c1-1-t0b"].data.context == {"user": "ann"}  # type: ignore[union-attr]
    assert not world.state.tasks
    world.result(priced("c1-1-t0b-1-m", 0.25))
    finished = world.events(RunFinished)
    assert [(event.cost, event.usage) for event in finished] == [(0.5, Usage(6, 4, 2)), (0.75, Usage(8, 7, 1))]
    world.verified()


def test_a_task_that_ends_while_its_thread_is_busy_waits_for_its_turn() -> None:
    world = World()
    world.ask("c1", EDITED, text="dig")
    world.result(said("c1-1-m", "", [call(1, "dig")]))
    assert tags(dug(world)) == ["command.accepted", "run.queued"]
    world.crash()
    assert tags(world.result(said("c1-2-m", "I dig")))[:3] == ["run.finished", "message.added", "run.started"]
    world.result(said("c1-1-t0b-1-m", "gold it is"))
    assert world.events(RunFinished)[-1].usage == Usage(8, 7, 1)
    world.verified()


def test_a_task_is_cancelled_once_and_nothing_comes_of_it() -> None:
    world = World()
    world.ask("c1", EDITED, text="dig")
    world.result(said("c1-1-m", "", [call(1, "dig")]))
    assert tags(world.settle("x1", CancelTask("c1-1-t0b", "no need"))) == ["command.accepted", "task.cancelled"]
    (refused,) = world.settle("x2", CancelTask("c1-1-t0b"))
    assert isinstance(refused, CommandRefused)
    assert refused.problem.field == "task"
    world.result(said("c1-2-m", "I dug"))
    assert not world.open
    world.verified()


def test_the_end_of_its_run_is_not_the_end_of_a_task_but_that_of_its_thread_is() -> None:
    world = World()
    world.ask("c1", EDITED, text="dig")
    world.result(said("c1-1-m", "", [call(1, "dig")]))
    world.settle("a1", AbortRun())
    assert list(world.open) == ["c1-1-t0b"]
    assert "task.cancelled" in tags(world.settle("d1", DeleteThread()))
    assert list(world.open) == ["t1-e"]
    world.verified()


ROOM = replace(EDITED, background_concurrency=1)


def tasks(world: World) -> list[str]:
    return [name for name in world.open if name.endswith("b")]


def test_tasks_for_which_there_is_no_room_wait_their_turn() -> None:
    world = World()
    world.ask("c1", ROOM, text="dig")
    world.result(said("c1-1-m", "", [call(1, "dig"), call(2, "dig"), call(3, "dig")]))
    assert tasks(world) == ["c1-1-t0b"]
    world.crash()
    assert tasks(world) == ["c1-1-t0b"]
    world.settle("x1", CancelTask("c1-1-t1b"))
    assert tasks(world) == ["c1-1-t0b"]
    world.result(TaskEnded("c1-1-t0b", "returned", "gold"))
    assert tasks(world) == ["c1-1-t2b"]
    world.crash()
    world.settle("x2", CancelTask("c1-1-t2b"))
    assert tasks(world) == []
    world.verified()


def test_a_task_that_is_cancelled_makes_room_and_none_begins_in_a_thread_that_is_deleted() -> None:
    world = World()
    world.ask("c1", ROOM, text="dig")
    world.result(said("c1-1-m", "", [call(1, "dig"), call(2, "dig"), call(3, "dig")]))
    world.settle("x1", CancelTask("c1-1-t0b"))
    assert tasks(world) == ["c1-1-t1b"]
    world.settle("d1", DeleteThread())
    assert tasks(world) == []
    assert world.begun["c1-1-t2b"] == 0
    world.verified()


@pytest.mark.parametrize(("edition", "events"), [(1, ["command.accepted", "message.added"]), (2, ["command.refused"])])
def test_a_run_that_was_ended_before_it_came_is_refused_but_where_it_was_taken_on_once(
    edition: int, events: list[str]
) -> None:
    world = World("child")
    world.settle(child_end("child"), AbortRun("r"))
    asked = world.ask("r", replace(PROFILE, edition=edition), text="hi", parent=Parent("t1", "c1", "c1-1-t0"))
    assert tags(asked)[: len(events)] == events
    world.verified()
