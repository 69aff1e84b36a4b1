"""A list of what is to be done, that a model keeps of its thread: every change is an event of the thread's memory.

Each item is a note of its own, so that two calls of one step that change different items do not undo one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from actors.tools import Tool, ToolContext, tool
from actors.toolsets import Surroundings
from schemas import codec
from schemas.errors import BadShape

MOST_TASKS = 100
LONGEST_TITLE = 500
_TOPIC = "tasks/"

Status = Literal["pending", "in_progress", "completed", "cancelled"]


class TaskItem(msgspec.Struct, frozen=True):
    """One thing that is to be done."""

    id: str
    title: str
    status: Status = "pending"


def tasks_in(notes: Mapping[str, str]) -> list[TaskItem]:
    """Read the list out of a thread's notes (`StepView.notes`, `ToolContext.notes`), in its order."""
    found = list[TaskItem]()
    for topic, text in notes.items():
        if topic.startswith(_TOPIC) and text:
            try:
                found.append(codec.decode(text.encode(), TaskItem))
            except BadShape:
                continue  # somebody else's note
    return sorted(found, key=lambda item: (len(item.id), item.id))


@dataclass(frozen=True, slots=True)
class TaskList:
    """Tools by which a model writes, changes, completes and checks its list of tasks; each thread has one."""

    async def tools(self, around: Surroundings) -> tuple[Tool, ...]:
        """List them."""
        return _TOOLS


@tool(effect="idempotent")
async def write_tasks(titles: list[str], context: ToolContext) -> str:
    """Write the list of tasks anew: one title for each thing that is to be done, in order. All are pending then.

    Args:
        titles: what is to be done.
        context: of the call.
    """
    if len(titles) > MOST_TASKS:
        raise ValueError(f"titles: at most {MOST_TASKS} tasks, not {len(titles)}")
    items = [TaskItem(str(number), _fit(title)) for number, title in enumerate(titles, start=1)]
    for left in {item.id for item in tasks_in(context.notes)} - {item.id for item in items}:
        context.write_note(_TOPIC + left, "")
    for item in items:
        _keep(context, item)
    return told(items)


@tool(effect="idempotent")
async def update_task(id: str, context: ToolContext, title: str = "", status: Status | None = None) -> str:  # noqa: A002
    """Change a task: what it is, or how far it is.

    Args:
        id: the task's number.
        title: what is to be done, if that is otherwise now.
        status: how far it is.
        context: of the call.
    """
    item = _known(context, id)
    changed = TaskItem(item.id, _fit(title) if title else item.title, status or item.status)
    _keep(context, changed)
    return told([changed])


@tool(effect="idempotent")
async def complete_task(id: str, context: ToolContext) -> str:  # noqa: A002
    """Say that a task is done.

    Args:
        id: the task's number.
        context: of the call.
    """
    done = TaskItem(id, _known(context, id).title, "completed")
    _keep(context, done)
    return told([done])


@tool(effect="pure")
async def check_tasks(context: ToolContext) -> str:
    """Read the list of tasks, and how many are left."""
    items = tasks_in(context.notes)
    left = sum(item.status in {"pending", "in_progress"} for item in items)
    return f"{told(items)}\n{left} of {len(items)} left" if items else "there are no tasks"


_TOOLS = (write_tasks, update_task, complete_task, check_tasks)


def told(items: list[TaskItem]) -> str:
    """Write tasks as a model reads them."""
    return "\n".join(f"{item.id}. [{item.status}] {item.title}" for item in items)


def _known(context: ToolContext, name: str) -> TaskItem:
    items = {item.id: item for item in tasks_in(context.notes)}
    if name not in items:
        raise ValueError(f"id: no task {name!r} (tasks: {', '.join(items) or 'none'})")
    return items[name]


def _fit(title: str) -> str:
    if not 0 < len(title) <= LONGEST_TITLE:
        raise ValueError(f"a task's title has 1 to {LONGEST_TITLE} characters, not {len(title)}")
    return title


def _keep(context: ToolContext, item: TaskItem) -> None:
    context.write_note(_TOPIC + item.id, codec.encode(item).decode())
