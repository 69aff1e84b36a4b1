"""Threads among others, decided: begun with whom they belong to, renamed, written to, and ended for good."""

from __future__ import annotations

from actors.agent.conversation import Conversation
from actors.agent.erasing import erase_thread
from actors.agent.folding import Folding
from actors.agent.tasks import cancel
from actors.agent.turns import break_off
from actors.memory.observing import begins_turn
from actors.memory.working import written
from actors.runtime.machine import Decision, Emitted
from schemas.commands import Command, RunAgent
from schemas.memory import (
    CreateThread,
    DeleteThread,
    MemoryWrite,
    Observe,
    Observed,
    Remember,
    RenameThread,
    ThreadCreated,
    ThreadDeleted,
    ThreadRenamed,
)
from schemas.runs import CommandAccepted, CommandRefused, Problem

Managing = CreateThread | RenameThread | DeleteThread | Remember | Observe


def managed(state: Conversation, command: Command, data: Managing) -> Decision:
    """Take on, or refuse, what changes a thread as a whole."""
    problem = _unfit(state, data)
    if problem is not None:
        return Decision([Emitted("thread", state.thread, CommandRefused(command=command, problem=problem))], [])
    folding = Folding(state)
    folding.emit("thread", state.thread, CommandAccepted(command=command))
    match data:
        case CreateThread(resource=resource, title=title, metadata=metadata):
            folding.emit("thread", state.thread, ThreadCreated(resource=resource, title=title, metadata=metadata))
        case RenameThread():
            folding.emit("thread", state.thread, _renamed(state, command, data))
        case Remember(content=content, merge=merge):
            write = MemoryWrite(topic="", text=content, scope="merge" if merge else "working")
            folding.emit("thread", state.thread, written(state.memory, write, by=command.source or "client"))
        case Observe(upto=upto, text=text, whole=whole, after=after):
            observed = Observed(upto=upto, text=text, first=after, at=command.time, whole=whole)
            folding.emit("thread", state.thread, observed)
        case DeleteThread(reason=reason):
            _end_all(folding)
            folding.emit("thread", state.thread, ThreadDeleted(reason=reason))
            folding.effects.append(erase_thread(state.thread))
    return folding.decision()


def gone(state: Conversation, command: Command) -> Decision:
    """Refuse whatever is asked of a thread that was deleted."""
    message = f"thread {state.thread!r} was deleted: begin another one"
    problem = Problem(kind="unknown_thread", message=message, field="thread")
    # what is said to a thread that is over is not written down
    bare = Command(command.id, command.tenant, command.kind, command.thread, "delete", DeleteThread())
    return Decision([Emitted("thread", state.thread, CommandRefused(command=bare, problem=problem))], [])


def misowned(state: Conversation, data: RunAgent) -> Problem | None:
    """Say why a run does not belong in a thread: it is somebody else's."""
    if not data.resource or data.resource == state.memory.resource or not state.commands:
        return None
    message = f"thread {state.thread!r} is not one of {data.resource!r}: leave that out, or begin another thread"
    return Problem(kind="invalid", message=message, field="resource")


def owned(folding: Folding, data: RunAgent) -> None:
    """Note whose thread it is, as the first run begins."""
    if data.resource and data.resource != folding.state.memory.resource:
        folding.emit("thread", folding.state.thread, ThreadCreated(resource=data.resource))


def noted(folding: Folding, data: RunAgent) -> None:
    """Write what the thread is to remember from here on."""
    writes = [MemoryWrite(topic, text) for topic, text in data.notes.items()]
    if data.working:
        writes.append(MemoryWrite("", data.working, "working"))
    for write in writes:
        folding.emit("thread", folding.state.thread, written(folding.state.memory, write))


def _unfit(state: Conversation, data: Managing) -> Problem | None:
    exists = bool(state.commands)
    if isinstance(data, CreateThread) and exists:
        message = f"thread {state.thread!r} exists: choose another id, or `rename` it"
        return Problem(kind="invalid", message=message, field="thread")
    if not isinstance(data, CreateThread) and not exists:
        message = f"thread {state.thread!r} does not exist: `create` it first, or run an agent in it"
        return Problem(kind="unknown_thread", message=message, field="thread")
    if isinstance(data, RenameThread) and data.untitled and state.memory.title:
        return Problem(kind="invalid", message=f"thread {state.thread!r} has a title", field="untitled")
    return _unfit_observation(state, data) if isinstance(data, Observe) else None


def _unfit_observation(state: Conversation, data: Observe) -> Problem | None:
    """Refuse what was condensed of another history than this, or would cut a turn."""
    memory, messages = state.memory, state.messages
    if data.after != memory.unshown:
        return Problem(kind="invalid", message=f"after: {memory.unshown} messages are not shown by now", field="after")
    if not begins_turn(messages, data.after, data.upto):
        return Problem(kind="invalid", message="upto: name a later message of the user's", field="upto")
    return None


def _renamed(state: Conversation, command: Command, data: RenameThread) -> ThreadRenamed:
    metadata = {**state.memory.metadata, **data.metadata}
    kept = {name: value for name, value in metadata.items() if value is not None}
    title = state.memory.title if data.title is None else data.title
    return ThreadRenamed(title=title, metadata=kept, by=command.source)


def _end_all(folding: Folding) -> None:
    """Break off what is under way and what waits, the last first, so that nothing of the queue begins."""
    under_way = [*reversed(folding.state.queue), *([folding.state.active] if folding.state.active else [])]
    going = [task for task in folding.state.tasks.values() if not task.ended]
    # the last first where some wait for room: they are not to begin. Before there were such, it was the first first
    for task in reversed(going) if any(task.most for task in going) else going:
        cancel(folding, task.effect, "", "the thread was deleted")
    for name in under_way:
        break_off(folding, folding.state.runs[name], Problem(kind="aborted", message="the thread was deleted"))
