"""Runs as A2A's tasks: a thread is a context, a run a task, its answer an artifact. Pure."""

from __future__ import annotations

import importlib.metadata
from typing import Any, Final

from a2a.helpers.proto_helpers import get_data_parts, get_message_text, new_text_part
from a2a.types.a2a_pb2 import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    Artifact,
    Message,
    Role,
    Task,
    TaskArtifactUpdateEvent,
    TaskState,
    TaskStatus,
    TaskStatusUpdateEvent,
)

from infra.called import Came
from infra.running import Settling, Waiting
from schemas.commands import Deny, PostResult, Resume
from schemas.recollections import MessageTold
from schemas.rest import AgentOffered, RunShown

ARTIFACT: Final = "answer"
_STATES: Final = {
    "queued": TaskState.TASK_STATE_SUBMITTED,
    "asked": TaskState.TASK_STATE_SUBMITTED,
    "running": TaskState.TASK_STATE_WORKING,
    "waiting": TaskState.TASK_STATE_INPUT_REQUIRED,
    "finished": TaskState.TASK_STATE_COMPLETED,
    "failed": TaskState.TASK_STATE_FAILED,
    "aborted": TaskState.TASK_STATE_CANCELED,
    "joined": TaskState.TASK_STATE_COMPLETED,
}
_YES: Final = frozenset({"yes", "y", "ok", "approve", "approved", "go", "allow"})


def state_of(status: str) -> TaskState:
    """Say what a run's status is called."""
    return _STATES.get(status, TaskState.TASK_STATE_WORKING)


def card(agent: AgentOffered, url: str) -> AgentCard:
    """Describe an agent that answers at a URL."""
    tools = [
        AgentSkill(id=one.name, name=one.name, description=one.description, tags=[one.effect])
        for one in agent.tools or ()
    ]
    asking = AgentSkill(
        id="ask", name=agent.name, description=agent.instructions or f"Ask {agent.name}.", tags=["chat"]
    )
    return AgentCard(
        name=agent.name,
        description=agent.instructions or f"The agent {agent.name}.",
        version=importlib.metadata.version("ostinato"),
        supported_interfaces=[
            AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0"),
            AgentInterface(url=url, protocol_binding="HTTP+JSON", protocol_version="1.0"),
        ],
        capabilities=AgentCapabilities(streaming=True, push_notifications=False),
        default_input_modes=["text/plain", "application/json"],
        default_output_modes=["text/plain"],
        skills=[asking, *tools],
    )


def task_id(thread: str, run: str) -> str:
    """Name a task so that its run is found again."""
    return f"{run}.{thread}"


def place_of(identity: str) -> tuple[str, str] | None:
    """Give the thread and the run that a task's name is about."""
    run, _, thread = identity.partition(".")
    return (thread, run) if run and thread else None


def status(state: TaskState, thread: str, run: str, text: str = "") -> TaskStatus:
    """Say how a task stands."""
    if not text:
        return TaskStatus(state=state)
    about = {"message_id": f"{run}-status", "context_id": thread, "task_id": task_id(thread, run)}
    return TaskStatus(state=state, message=Message(role=Role.ROLE_AGENT, parts=[new_text_part(text)], **about))


def task_of(came: Came) -> Task:
    """Tell how far a run came."""
    if came.ended is not None:
        found, text = status(TaskState.TASK_STATE_COMPLETED, came.thread, came.run), came.ended.text
    elif came.problem is not None:
        aborted = came.problem.kind == "aborted"
        state = TaskState.TASK_STATE_CANCELED if aborted else TaskState.TASK_STATE_FAILED
        found, text = status(state, came.thread, came.run, came.problem.message), ""
    else:
        found, text = status(TaskState.TASK_STATE_INPUT_REQUIRED, came.thread, came.run, question(came.waits)), ""
    return _task(came.thread, came.run, found, text)


def task_shown(shown: RunShown, waits: tuple[Waiting, ...]) -> Task:
    """Tell how a run stands."""
    text = "" if shown.problem is None else shown.problem.message
    told = question(waits) if shown.status == "waiting" else text
    return _task(shown.thread, shown.run, status(state_of(shown.status), shown.thread, shown.run, told), shown.text)


def _task(thread: str, run: str, stands: TaskStatus, text: str) -> Task:
    artifacts = [Artifact(artifact_id=ARTIFACT, parts=[new_text_part(text)])] if text else []
    return Task(id=task_id(thread, run), context_id=thread, status=stands, artifacts=artifacts)


def working(thread: str, run: str) -> Task:
    """Tell of a task that has begun."""
    return _task(thread, run, status(TaskState.TASK_STATE_WORKING, thread, run), "")


def updated(thread: str, run: str, stands: TaskStatus) -> TaskStatusUpdateEvent:
    """Tell that a task stands otherwise now."""
    return TaskStatusUpdateEvent(task_id=task_id(thread, run), context_id=thread, status=stands)


def written(thread: str, run: str, text: str, *, append: bool, last: bool = False) -> TaskArtifactUpdateEvent:
    """Tell of a piece of an answer."""
    artifact = Artifact(artifact_id=ARTIFACT, parts=[new_text_part(text)])
    about = {"task_id": task_id(thread, run), "context_id": thread}
    return TaskArtifactUpdateEvent(artifact=artifact, append=append, last_chunk=last, **about)


def question(waits: tuple[Waiting, ...]) -> str:
    """Ask for what a run waits for."""
    lines = []
    for one in waits:
        call = f"{one.call.name} {one.call.arguments}"
        shown = "" if one.payload is None else f" {one.payload}"
        asked = (
            f"May this be done: {call}? Answer yes or no."
            if one.kind == "approval"
            else f"{call} waits for data:{shown}"
        )
        lines.append(asked)
    return "\n".join(lines)


def settling(one: Waiting, message: Message) -> Settling:
    """Make of a message what a run waits for: yes or no, or data as it is, or else the text."""
    text = get_message_text(message).strip()
    data: list[Any] = get_data_parts(message.parts)
    if one.kind == "approval":
        return one.approve() if text.lower().strip(".! ") in _YES else Deny(one.effect, text or "no")
    given = data[0] if data else text
    if one.kind == "caller":
        return PostResult(one.effect, given if isinstance(given, str) else str(given))
    return Resume(one.effect, given)


def history(messages: tuple[MessageTold, ...], thread: str, run: str) -> list[Message]:
    """Tell what was said in a task's thread."""
    about = {"context_id": thread, "task_id": task_id(thread, run)}
    roles = {"user": Role.ROLE_USER, "assistant": Role.ROLE_AGENT}
    return [
        Message(message_id=f"{thread}-{one.number}", role=roles[one.role], parts=[new_text_part(one.content)], **about)
        for one in messages
        if one.role in roles and one.content
    ]
