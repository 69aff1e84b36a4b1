"""Tool calls in the background, pure: begun, gone on with by whoever owns the thread, told of in a turn, or cancelled.

The run that began one reads a receipt and goes on. What the tool comes to and the run that is told of it are one
commit: there is one such run, whoever dies.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from actors.agent.conversation import Conversation
from actors.agent.effects import RunTask
from actors.agent.folding import Folding, context_of
from actors.agent.standing import named_by
from actors.agent.task import Task, under_way
from actors.agent.turns import disown, start
from actors.agent.wishes import run_task
from actors.memory.working import written
from schemas.commands import CancelTask, Command, RunAgent
from schemas.profiles import Profile
from schemas.runs import CommandAccepted, CommandRefused, Problem, RunQueued
from schemas.tasks import TaskCancelled, TaskEnded

_TOLD = {
    "returned": "The background task {task!r} ({tool}) has returned:\n{content}",
    "failed": "The background task {task!r} ({tool}) has come to nothing:\n{content}",
    "unknown": "Of the background task {task!r} ({tool}) this is known:\n{content}",
}


def told_of_task(folding: Folding, event: TaskEnded) -> None:
    """Begin the run that is told what a task came to, or have it wait for its turn."""
    state = folding.state
    task = state.tasks[event.effect]
    _go_on(folding, {**state.tasks, event.effect: replace(task, ended=False)})
    by = task.agent if named_by(state.runs[task.run].profile) else ""
    for write in event.writes:
        folding.emit("thread", state.thread, written(folding.state.memory, write, agent=by))
    profile, asked = _who_goes_on(state, task.run), state.commands[task.run]
    text = _TOLD[event.outcome].format(task=event.effect, tool=task.call.name, content=event.content)
    approvals = asked.data.approvals if isinstance(asked.data, RunAgent) else "ask"
    data = RunAgent(
        agent=profile.agent, text=text, context=context_of(state, task.run), approvals=approvals, task=event.effect
    )
    about = {"kind": "agent", "thread": state.thread, "verb": "run", "source": "task", "traceparent": asked.traceparent}
    command = Command(id=event.effect, tenant=state.tenant, data=data, **about)
    folding.emit("thread", state.thread, CommandAccepted(command=command))
    if state.active is None:
        start(folding, command, profile)
    else:
        folding.emit("run", command.id, RunQueued(behind=state.active, profile=profile))


def _who_goes_on(state: Conversation, name: str) -> Profile:
    """Give the profile of the run that began the task, or of the last one of whoever has the thread by now."""
    profile = state.runs[name].profile
    holder = state.holder(profile.agent)
    if holder == profile.agent:
        return profile
    return next(run.profile for run in reversed(list(state.runs.values())) if run.profile.agent == holder)


def cancelled(state: Conversation, command: Command, data: CancelTask) -> Folding:
    """End a task, or refuse to."""
    folding = Folding(state)
    going = [task.effect for task in state.tasks.values() if not task.ended]
    if data.task not in going:
        names = ", ".join(map(repr, going)) or "none"
        message = f"no background task {data.task!r} goes on in thread {state.thread!r} (going on: {names})"
        problem = Problem(kind="invalid", message=message, field="task")
        folding.emit("thread", state.thread, CommandRefused(command=command, problem=problem))
        return folding
    folding.emit("thread", state.thread, CommandAccepted(command=command))
    cancel(folding, data.task, command.source, data.reason)
    return folding


def cancel(folding: Folding, name: str, by: str, reason: str) -> None:
    """End a task, and another agent's run that it is."""
    task, before = folding.state.tasks[name], folding.state.tasks
    folding.emit("run", task.run, TaskCancelled(effect=name, by=by, reason=reason))
    _go_on(folding, before)
    if task.binding.place == "agent":
        disown(folding, task.run, name)


def _go_on(folding: Folding, before: Mapping[str, Task]) -> None:
    """Begin the tasks that there is room for now."""
    ran = set(under_way(before))
    begun = (name for name in under_way(folding.state.tasks) if name not in ran)
    folding.effects += [run_task(folding.state, name) for name in begun]


def run_tasks(state: Conversation) -> list[RunTask]:
    """Make the effects of the tasks that run."""
    return [run_task(state, name) for name in under_way(state.tasks)]
