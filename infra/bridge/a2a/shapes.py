"""Runs as A2A's tasks: a thread is a context, a run a task, its answer an artifact. Pure."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any, Final

from a2a.helpers.proto_helpers import get_data_parts, get_message_text, new_data_part, new_text_part
from a2a.types.a2a_pb2 import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    APIKeySecurityScheme,
    Artifact,
    HTTPAuthSecurityScheme,
    Message,
    Part,
    Role,
    SecurityRequirement,
    SecurityScheme,
    StringList,
    Task,
    TaskArtifactUpdateEvent,
    TaskState,
    TaskStatus,
    TaskStatusUpdateEvent,
)

from infra.called import Came
from infra.running import Settling, Waiting
from schemas import codec
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
_SCHEMES: Final = {
    "bearer": SecurityScheme(
        http_auth_security_scheme=HTTPAuthSecurityScheme(
            scheme="Bearer", description="An API key with the scope agents, or a token of the server's issuer."
        )
    ),
    "apiKey": SecurityScheme(
        api_key_security_scheme=APIKeySecurityScheme(
            location="header", name="x-api-key", description="An API key with the scope agents."
        )
    ),
}
"""Either does."""
_NO: Final = frozenset({"no", "n", "deny", "decline", "refuse"})
SEVERAL: Final = (
    'Several calls wait: answer each with a data part that names it, {"effect": EFFECT, "answer": "yes"} or "no" with '
    'a "reason", or {"effect": EFFECT, "data": DATA}; or say "yes to all" or "no to all" where all want a yes.'
)
_YES: Final = frozenset({"yes", "y", "ok", "approve", "approved", "go", "allow"})


class Unnamed(Exception):
    """An answer to what does not wait."""


def state_of(status: str) -> TaskState:
    """Say what a run's status is called."""
    return _STATES.get(status, TaskState.TASK_STATE_WORKING)


def card(agent: AgentOffered, url: str, *, keyed: bool = False, pushes: bool = False) -> AgentCard:
    """Describe an agent that answers at a URL, with what key where one is needed, and whether it tells of tasks."""
    tools = [
        AgentSkill(id=one.name, name=one.name, description=one.description, tags=[one.effect])
        for one in agent.tools or ()
    ]
    asking = AgentSkill(id="ask", name=agent.name, description=agent.description or f"Ask {agent.name}.", tags=["chat"])
    return AgentCard(
        name=agent.name,
        description=agent.description or f"The agent {agent.name}.",
        version=importlib.metadata.version("ostinato"),
        supported_interfaces=[
            AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0"),
            AgentInterface(url=url, protocol_binding="HTTP+JSON", protocol_version="1.0"),
        ],
        capabilities=AgentCapabilities(streaming=True, push_notifications=pushes),
        default_input_modes=["text/plain", "application/json"],
        default_output_modes=["text/plain"],
        skills=[asking, *tools],
        security_schemes=_SCHEMES if keyed else None,
        security_requirements=[SecurityRequirement(schemes={name: StringList()}) for name in _SCHEMES if keyed],
    )


def task_id(thread: str, run: str) -> str:
    """Name a task so that its run is found again."""
    return f"{run}.{thread}"


def place_of(identity: str) -> tuple[str, str] | None:
    """Give the thread and the run that a task's name is about."""
    run, _, thread = identity.partition(".")
    return (thread, run) if run and thread else None


def status(state: TaskState, thread: str, run: str, text: str = "", waits: tuple[Waiting, ...] = ()) -> TaskStatus:
    """Say how a task stands; what it waits for is told for programs too."""
    parts = [new_text_part(text)] if text else []
    if waits:
        parts.append(_waits(waits))
    if not parts:
        return TaskStatus(state=state)
    about = {"message_id": f"{run}-status", "context_id": thread, "task_id": task_id(thread, run)}
    return TaskStatus(state=state, message=Message(role=Role.ROLE_AGENT, parts=parts, **about))


def _waits(waits: tuple[Waiting, ...]) -> Part:
    told = [
        {"effect": one.effect, "kind": one.kind, "tool": one.call.name, "arguments": one.call.arguments}
        for one in waits
    ]
    return new_data_part({"waits": told})


def task_of(came: Came) -> Task:
    """Tell how far a run came."""
    if came.ended is not None:
        found, text = status(TaskState.TASK_STATE_COMPLETED, came.thread, came.run), came.ended.text
    elif came.problem is not None:
        aborted = came.problem.kind == "aborted"
        state = TaskState.TASK_STATE_CANCELED if aborted else TaskState.TASK_STATE_FAILED
        found, text = status(state, came.thread, came.run, came.problem.message), ""
    else:
        state, asked = TaskState.TASK_STATE_INPUT_REQUIRED, question(came.waits)
        found, text = status(state, came.thread, came.run, asked, came.waits), ""
    return _task(came.thread, came.run, found, text)


def task_shown(shown: RunShown, waits: tuple[Waiting, ...]) -> Task:
    """Tell how a run stands."""
    text = "" if shown.problem is None else shown.problem.message
    told = question(waits) if shown.status == "waiting" else text
    stands = status(state_of(shown.status), shown.thread, shown.run, told, waits)
    return _task(shown.thread, shown.run, stands, shown.text)


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
    several = len(waits) > 1
    lines = [_question(one) + (f" (effect {one.effect})" if several else "") for one in waits]
    return "\n".join([*lines, SEVERAL] if several else lines)


def _question(one: Waiting) -> str:
    call = f"{one.call.name} {one.call.arguments}"
    if one.kind == "approval":
        return f"May this be done: {call}? Answer yes or no."
    return f"{call} waits for data:" + ("" if one.payload is None else f" {one.payload}")


def answers(waits: Sequence[Waiting], message: Message) -> list[tuple[Waiting, Settling]] | None:
    """Make of a message what is answered with it; None where several wait and it does not say which it is about.

    A yes is for one call: several are answered by data parts that name their effects, or by `yes to all`.

    Raises:
        Unnamed: a data part names what does not wait.
    """
    named = [part for part in get_data_parts(message.parts) if isinstance(part, dict) and "effect" in part]
    known = {one.effect: one for one in waits}
    if named and (len(waits) > 1 or any(part["effect"] in known for part in named)):
        if strange := next((part["effect"] for part in named if part["effect"] not in known), None):
            raise Unnamed(f"nothing waits as {strange!r}: there are {', '.join(map(repr, known))}")
        return [(known[part["effect"]], _named(known[part["effect"]], part)) for part in named]
    if len(waits) == 1:
        return [(waits[0], settling(waits[0], message))]
    said, to_all = _plain(get_message_text(message)), " to all"
    if not said.endswith(to_all) or any(one.kind != "approval" for one in waits):
        return None
    agreed = said.removesuffix(to_all) in _YES
    if not agreed and said.removesuffix(to_all) not in _NO:
        return None
    return [(one, one.approve() if agreed else one.deny("no to all")) for one in waits]


def _plain(text: str) -> str:
    return text.strip().lower().strip(".! ")


def _named(one: Waiting, part: Mapping[str, Any]) -> Settling:
    """Make of a data part what the call that it names waits for."""
    if one.kind == "approval":
        given = part.get("answer")
        agreed = given is True or (isinstance(given, str) and _plain(given) in _YES)
        return one.approve() if agreed else one.deny(str(part.get("reason") or given or "no"))
    return _given(one, part.get("data"))


def settling(one: Waiting, message: Message) -> Settling:
    """Make of a message what a run waits for: yes or no, or data as it is, or else the text."""
    text = get_message_text(message).strip()
    data: list[Any] = get_data_parts(message.parts)
    if one.kind == "approval":
        return one.approve() if _plain(text) in _YES else Deny(one.effect, text or "no")
    return _given(one, data[0] if data else text)


def _given(one: Waiting, given: Any) -> Settling:
    if one.kind == "caller":
        return PostResult(one.effect, given if isinstance(given, str) else codec.encode(given).decode())
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
