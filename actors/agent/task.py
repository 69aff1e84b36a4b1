"""A tool call in the background, as its events leave it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

import msgspec
from msgspec.structs import replace

from actors.agent.run import Run
from schemas.messages import ToolCall, Usage
from schemas.profiles import ToolBinding
from schemas.tasks import TaskCancelled, TaskEnded, TaskEvent, TaskStarted


class Task(msgspec.Struct, frozen=True):
    """A tool call that goes on in the background."""

    effect: str
    run: str
    """The one that began it."""
    call: ToolCall
    agent: str
    binding: ToolBinding
    processors: tuple[str, ...] = ()
    attempts: int = 1
    """How often it was begun."""
    most: int = 0
    """How many of its agent's may run at once; 0 is all."""
    ended: bool = False
    """Whether it waits only for a run to be told of it."""
    usage: Usage = Usage()
    cost: float | None = 0.0


def after_task(tasks: Mapping[str, Task], run: Run, event: TaskEvent) -> dict[str, Task]:
    """Fold one fact about a task of a run."""
    match event:
        case TaskStarted(effect=effect, call=call):
            binding = next(tool for tool in run.profile.tools if tool.name == call.name)
            task = Task(effect, run.id, call, run.profile.agent, binding, run.profile.processors)
            task = replace(task, most=run.profile.background_concurrency)
        case TaskEnded(effect=effect, usage=usage, cost=cost):
            task = replace(tasks[effect], ended=True, usage=usage, cost=cost)
        case TaskCancelled(effect=effect):
            return {other: task for other, task in tasks.items() if other != effect}
        case _:
            assert_never(event)
    return {**tasks, effect: task}


def under_way(tasks: Mapping[str, Task]) -> list[str]:
    """Name the tasks that run: of each agent's the first ones, as far as there is room."""
    running, count = list[str](), dict[str, int]()
    for name, task in tasks.items():
        if task.ended or 0 < task.most <= count.get(task.agent, 0):
            continue
        count[task.agent] = count.get(task.agent, 0) + 1
        running.append(name)
    return running


def again(tasks: Mapping[str, Task], effect: str, attempt: int) -> dict[str, Task]:
    """Note that a task is about to be begun once more."""
    return {**tasks, effect: replace(tasks[effect], attempts=attempt)}
