"""The list of tasks: what its tools write, and that two calls of one step do not undo one another."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors.built_in.task_list import MOST_TASKS, TaskItem, TaskList, tasks_in
from actors.tools import ToolContext
from actors.toolsets import Surroundings
from schemas.runs import ToolReturned
from tests.actors.agent.test_loop import World, call, said

pytestmark = pytest.mark.anyio


async def used(name: str, notes: dict[str, str], **arguments: Any) -> tuple[str, ToolContext]:
    tools = {tool.name: tool for tool in await TaskList().tools(Surroundings())}
    context = ToolContext("acme", "t1", "k", 0, dict(notes))
    output = await tools[name].call(json.dumps(arguments), context)
    return output.content, context


def after(notes: dict[str, str], context: ToolContext) -> dict[str, str]:
    return {**notes, **{write.topic: write.text for write in context.writes}}


async def test_a_list_is_written_changed_completed_and_checked() -> None:
    _, written = await used("write_tasks", {}, titles=["dig", "sow"])
    notes = after({"colour": "blue"}, written)
    _, changed = await used("update_task", notes, id="1", title="dig deep", status="in_progress")
    notes = after(notes, changed)
    _, done = await used("complete_task", notes, id="2")
    notes = after(notes, done)
    assert tasks_in(notes) == [TaskItem("1", "dig deep", "in_progress"), TaskItem("2", "sow", "completed")]
    told, nothing = await used("check_tasks", notes)
    assert told == "1. [in_progress] dig deep\n2. [completed] sow\n1 of 2 left"
    assert not nothing.writes


async def test_a_list_that_is_written_anew_leaves_nothing_of_the_old_one() -> None:
    _, written = await used("write_tasks", {}, titles=[f"task {number}" for number in range(12)])
    notes = after({}, written)
    assert [item.id for item in tasks_in(notes)] == [str(number) for number in range(1, 13)]
    _, again = await used("write_tasks", notes, titles=["one"])
    assert tasks_in(after(notes, again)) == [TaskItem("1", "one")]


async def test_what_does_not_fit_is_the_models_error() -> None:
    for name, arguments, why in (
        ("complete_task", {"id": "9"}, "no task '9' .tasks: none"),
        ("write_tasks", {"titles": ["x"] * (MOST_TASKS + 1)}, "at most 100"),
        ("write_tasks", {"titles": ["x" * 501]}, "1 to 500"),
    ):
        with pytest.raises(ValueError, match=why):
            await used(name, {}, **arguments)
    assert tasks_in({"tasks/1": "somebody's own", "tasks/2": ""}) == []


async def test_two_calls_of_one_step_both_count() -> None:
    """Each sees the list as it was before the step."""
    world = World()
    world.ask("c1", text="hi", notes={"tasks/1": '{"id":"1","title":"dig"}', "tasks/2": '{"id":"2","title":"sow"}'})
    world.result(said("c1-1-m", "", [call(1), call(2)]))
    for index, effect in enumerate(("c1-1-t0", "c1-1-t1"), start=1):
        _, done = await used("complete_task", world.open[effect].notes, id=str(index))  # type: ignore[attr-defined]
        world.result(ToolReturned(effect, f"call-{index}", "ok", tuple(done.writes)))
    assert [item.status for item in tasks_in(world.state.notes)] == ["completed", "completed"]
    world.crash()
    assert len(tasks_in(world.state.notes)) == 2
    world.verified()
