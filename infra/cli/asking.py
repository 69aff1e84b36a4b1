"""Whom a terminal talks to, and the commands that it sends them."""

from __future__ import annotations

import argparse
import http.client
import json
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from actors.runtime.context import SystemChance, SystemClock, SystemIds
from bus import subjects
from infra.services.data_directory import Runtime
from schemas.commands import AbortRun, Approve, CancelTask, Command, CommandData, Deny, Generate, Resume, RunAgent
from schemas.forks import Fork
from schemas.keys import IssueKey, RevokeKey
from schemas.memory import CreateThread, DeleteThread, RenameThread
from schemas.messages import Message
from schemas.schedules import ScheduleCommand
from schemas.standing import StandingCommand
from schemas.times import rfc3339
from schemas.tracing import beginning

AGENT_PREFIX = "agent/"
DEMO = AGENT_PREFIX + "demo"
_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Partner:
    """An agent, or a bare model."""

    kind: Literal["agent", "model"]
    name: str


def partner_of(name: str, served: Sequence[str]) -> Partner:
    """Tell agents from models: `agent/NAME` is an agent, a served model's name that model, any other name an agent."""
    if name.startswith(AGENT_PREFIX):
        return Partner("agent", name.removeprefix(AGENT_PREFIX))
    return Partner("model" if name in served else "agent", name)


def anybody(served: Sequence[str]) -> str:
    """Choose whom to talk to when nobody is named: the demo agent, else another agent, else a model."""
    return min(served, key=lambda name: (name != DEMO, not name.startswith(AGENT_PREFIX)), default=DEMO)


def served_by(runtime: Runtime) -> list[str]:
    """List what the running stack serves, agents as `agent/NAME`; it has written that down."""
    return list(runtime.served)


def served_at(url: str, wait_s: float = _WAIT_S) -> list[str]:
    """List what a server of OpenAI's API serves; nothing when it does not answer."""
    try:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=wait_s) as answer:
            return [str(model["id"]) for model in json.load(answer)["data"]]
    except (OSError, ValueError, http.client.HTTPException):
        return []


def agent_command(
    agent: str,
    text: str,
    thread: str | None,
    tenant: str = "default",
    approvals: Literal["ask", "refuse"] = "refuse",
    timeout_s: float | None = None,
    wanted: Mapping[str, Any] = {},
) -> Command:
    """Make the command that runs an agent on a message, in a thread that exists or in a new one.

    `wanted` is what else its data says: see `wanted_of`.
    """
    ids = SystemIds()
    where = subjects.checked(thread, "thread") if thread is not None else ids.new("t")
    deadline = 0 if timeout_s is None else SystemClock().now() + int(timeout_s * 1e6)
    known: Literal["any", "existing"] = "any" if thread is None else "existing"
    data = RunAgent(agent=agent, text=text, thread=known, approvals=approvals, deadline=deadline, **wanted)
    return _command(ids.new("r"), tenant, "agent", where, "run", data)


def wanted_of(options: argparse.Namespace) -> dict[str, Any]:
    """Give what the command line wants of an agent's run beside its message."""
    context = {name: _value(text) for name, text in options.context}
    given = {"context": context or None, "resource": options.resource, "model": options.model}
    return {name: value for name, value in given.items() if value is not None}


def for_agents(options: argparse.Namespace) -> Iterator[str]:
    """Name the flags that were given and that only an agent's run heeds."""
    for name in ("thread", "timeout", "context", "resource", "model"):
        given = getattr(options, name, None)
        if given is not None and given != []:
            yield f"--{name}"


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return unicode_text(text)


def model_command(model: str, messages: Sequence[Message], tenant: str = "default") -> Command:
    """Make the command for one answer of a bare model."""
    identity = SystemIds().new("g")
    return _command(identity, tenant, "generation", identity, "generate", Generate(model=model, messages=(*messages,)))


def completion_command(wanted: Generate, tenant: str = "default") -> Command:
    """Make the command for what a bare model writes after a raw prompt."""
    identity = SystemIds().new("g")
    return _command(identity, tenant, "generation", identity, "generate", wanted)


def approval_command(thread: str, answer: Approve | Deny | Resume | CancelTask, tenant: str = "default") -> Command:
    """Make the command that settles what a tool call waits for, or ends one in the background."""
    verb = str(answer.__struct_config__.tag)
    return _command(SystemIds().new("a"), tenant, "agent", thread, verb, answer)


def fork_command(fork: Fork, thread: str | None, tenant: str = "default") -> Command:
    """Make the command that begins a thread as a fork."""
    ids = SystemIds()
    where = subjects.checked(thread, "thread") if thread is not None else ids.new("t")
    return _command(ids.new("f"), tenant, "agent", where, "fork", fork)


def abort_command(thread: str, run: str = "", reason: str = "", tenant: str = "default") -> Command:
    """Make the command that ends a run; the one under way unless it is named."""
    return _command(SystemIds().new("a"), tenant, "agent", thread, "abort", AbortRun(run=run, reason=reason))


def thread_command(thread: str | None, data: CreateThread | RenameThread | DeleteThread, tenant: str) -> Command:
    """Make the command that begins a thread, renames it, or ends it for good."""
    ids = SystemIds()
    where = subjects.checked(thread, "thread") if thread is not None else ids.new("t")
    return _command(ids.new("m"), tenant, "agent", where, str(data.__struct_config__.tag), data)


def standing_command(thread: str | None, data: StandingCommand, tenant: str) -> Command:
    """Make the command that sets a thread's mode, grants or goal; the thread is a new one unless it is named."""
    ids = SystemIds()
    where = subjects.checked(thread, "thread") if thread is not None else ids.new("t")
    return _command(ids.new("m"), tenant, "agent", where, str(data.__struct_config__.tag), data)


def key_command(key: str, data: IssueKey | RevokeKey, tenant: str) -> Command:
    """Make the command that issues an API key, or revokes it."""
    return _command(SystemIds().new("m"), tenant, "key", key, str(data.__struct_config__.tag), data)


def schedule_command(schedule: str, data: ScheduleCommand, tenant: str) -> Command:
    """Make the command that adds a schedule, pauses it, has it fire, or ends it."""
    where, verb = subjects.checked(schedule, "schedule"), str(data.__struct_config__.tag)
    return _command(SystemIds().new("s"), tenant, "schedule", where, verb, data)


def unicode_text(given: str) -> str:
    """Make text that came from a shell or a pipe one that the log can hold."""
    return given.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _command(identity: str, tenant: str, kind: str, thread: str, verb: str, data: CommandData) -> Command:
    chance = SystemChance()
    return Command(
        id=identity,
        tenant=tenant,
        kind=kind,
        thread=thread,
        verb=verb,
        data=data,
        source="cli",
        time=rfc3339(SystemClock().now()),
        traceparent=beginning(chance.bits(128), tenant, identity),
    )
