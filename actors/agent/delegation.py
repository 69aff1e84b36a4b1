"""Another agent's run as a tool call: a thread of its own, named after the call, so that it is begun once.

Whoever performs the call again after a crash sends the same command, which its thread knows, and hears of the same run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from hashlib import blake2b
from typing import Any, Protocol

import msgspec

from actors.agent.calls import failed, kept
from actors.agent.effects import CallTool
from actors.runtime.performer import Site
from schemas import codec
from schemas.commands import AbortRun, Command, Parent, RunAgent
from schemas.live import Committed, Frame, Outcome
from schemas.messages import Usage
from schemas.runs import Event, ModelReturned, RunFailed, RunFinished, ToolReturned

_TOLD = frozenset({"approval.requested", "tool.suspended", "tool.handed_over", "tool.called", "run.failed"})
"""Events of a child's that whoever watches its parent hears of."""


class Runs(Protocol):
    """Runs in threads of their own."""

    def follow(self, command: Command) -> AsyncIterator[Frame]:
        """Send a command, and yield what becomes of it, each event once and in order, until the run's end."""

    async def abort(self, command: Command) -> None:
        """Send a command that ends a run."""


class _Asked(msgspec.Struct):
    """What the model says to another agent."""

    message: str


def is_delegated(effect: CallTool) -> bool:
    """Say whether a call is another agent's run."""
    return effect.binding is not None and effect.binding.place == "agent"


def child_thread(tenant: str, thread: str, effect: str) -> str:
    """Name the thread of the run that a call is."""
    return "s" + blake2b(f"{tenant}/{thread}/{effect}".encode(), digest_size=12).hexdigest()


def child_abort(effect: CallTool, site: Site) -> Command:
    """Make the command that ends the run that a call is."""
    thread = child_thread(site.tenant, site.thread, effect.id)
    data = AbortRun(run=f"{thread}-r", reason=f"run {effect.entity!r} that asked for it was ended")
    return _command(f"{thread}-a", site.tenant, thread, "abort", data, effect.traceparent)


async def delegated(runs: Runs, effect: CallTool, site: Site, tell: Callable[[Any], None]) -> Event:
    """Run the other agent, or hear of its run again; its last words are the call's result."""
    assert effect.binding is not None
    try:
        asked = msgspec.json.decode(effect.called.call.arguments or "{}", type=_Asked)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        return failed(effect, f"arguments of {effect.called.call.name!r} do not fit: {error} (parameters: message)")
    thread = child_thread(site.tenant, site.thread, effect.id)
    parent = Parent(site.thread, effect.entity, effect.id, effect.depth + 1)
    data = RunAgent(
        agent=effect.binding.service,
        text=asked.message,
        context=effect.context,
        approvals=effect.approvals,
        parent=parent,
    )
    command = _command(f"{thread}-r", site.tenant, thread, "run", data, effect.traceparent)
    usage, problem = Usage(), ""
    async for frame in runs.follow(command):
        if isinstance(frame, Outcome) and frame.problem is not None:
            problem = frame.problem.message
        if not isinstance(frame, Committed):
            continue
        event = codec.decode_event(frame.data)
        if frame.type in _TOLD:
            tell({"agent": data.agent, "thread": thread, "run": command.id, "event": frame.data})
        match event:
            case ModelReturned(usage=used):
                usage += used
            case ToolReturned(usage=used):
                usage += used
            case RunFinished(text=text):
                return ToolReturned(effect.id, effect.called.call.id, kept(text), usage=usage)
            case RunFailed(problem=why):
                problem = why.message
            case _:
                pass
    return failed(effect, f"agent {data.agent!r} came to nothing: {problem}")


def _command(identity: str, tenant: str, thread: str, verb: str, data: RunAgent | AbortRun, trace: str) -> Command:
    return Command(
        id=identity, tenant=tenant, kind="agent", thread=thread, verb=verb, data=data, source="agent", traceparent=trace
    )
