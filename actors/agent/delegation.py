"""Another agent's run as a tool call: a thread of its own, named after the call, so that it is begun once.

Whoever performs the call again after a crash sends the same command, which its thread knows, and hears of the same run.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Protocol

import msgspec

from actors.agent.calls import failed, kept
from actors.agent.effects import CallTool, EndChild
from actors.agent.hooks import called_hook, reason_of
from actors.delegates import Delegated, Delegating, Delegation, Refused
from actors.request_context import RequestContext
from actors.runtime.performer import Site
from bus.errors import Refused as TooLarge
from schemas import codec
from schemas.commands import AbortRun, Command, Parent, RunAgent
from schemas.faults import fault
from schemas.live import Committed, Frame, Outcome, Progress
from schemas.memory import MemoryWrite
from schemas.messages import Usage
from schemas.runs import Event, Problem, RunFailed, RunFinished, ToolReturned

log = logging.getLogger(__name__)

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


def child_run(thread: str) -> str:
    """Name the run that a call is, by its thread."""
    return f"{thread}-r"


def child_end(thread: str) -> str:
    """Name the command that ends the run that a call is, by its thread."""
    return f"{thread}-a"


def child_abort(effect: EndChild, site: Site) -> Command:
    """Make the command that ends the run that a call is."""
    thread = child_thread(site.tenant, site.thread, effect.call)
    data = AbortRun(run=child_run(thread), reason=f"run {effect.entity!r} that asked for it was ended")
    return _command(child_end(thread), site.tenant, thread, "abort", data, effect.traceparent)


async def delegated(
    runs: Runs, effect: CallTool, site: Site, tell: Callable[[Any], None], about: Delegating, again: bool
) -> Event:
    """Run the other agent, or hear of its run again; its last words are the call's result."""
    assert effect.binding is not None
    try:
        asked = msgspec.json.decode(effect.called.call.arguments or "{}", type=_Asked)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        return failed(effect, f"arguments of {effect.called.call.name!r} do not fit: {error} (parameters: message)")
    context = RequestContext(effect.context)
    names = (effect.binding.service, asked.message, effect.agent, effect.entity, site.thread)
    delegation = Delegation(*names, 0 if effect.parent is None else effect.parent.depth, context)
    try:
        said = await _said(effect.agent, about.before, delegation)
        if isinstance(said, Refused):
            if again:  # who asked first may have been let
                await runs.abort(child_abort(EndChild(effect.id, "run", effect.entity, "", call=effect.id), site))
            return failed(effect, f"agent {delegation.agent!r} is not asked: {said.reason}")
        if said is not None:
            delegation = replace(delegation, message=said)
        heard = _Heard(delegation.agent, tell)
        async for frame in runs.follow(_asking(effect, site, delegation, about)):
            heard.hear(frame)
        came_to = Delegated(delegation, heard.text, heard.problem, heard.usage, heard.cost)
        instead = await _said(effect.agent, about.after, came_to)
    except TooLarge as refusal:
        return failed(effect, f"agent {delegation.agent!r} cannot be asked: {refusal}")
    except _HookFailed as failure:
        log.warning("a hook around agent %r failed: %s", delegation.agent, fault(failure))
        return failed(effect, f"a function around agent {delegation.agent!r} failed: {failure}")
    writes = tuple(heard.writes) if about.memory == "shared" else ()
    return heard.outcome(effect, None if instead is None else str(instead), writes)


class _HookFailed(Exception):
    """A function of the author's raised something: whatever that is, it ends its call alone, and is not the bus's."""


async def _said(agent: str, hook: Callable[[Any], Any] | None, about: Delegation | Delegated) -> Any:
    """Ask a function of the author's, where there is one; a text, a refusal or None."""
    if hook is None:
        return None
    try:
        said = await called_hook(agent, hook, about)
        return said if said is None or isinstance(said, Refused) else str(said)
    except (Exception, SystemExit) as error:
        raise _HookFailed(reason_of(error)) from error


class _Heard:
    """What is heard of the other agent's run."""

    def __init__(self, agent: str, tell: Callable[[Any], None]) -> None:
        self._agent = agent
        self._tell = tell
        self.text = ""
        self.problem: Problem | None = None
        self.usage = Usage()
        self.cost: float | None = 0.0
        self.writes: list[MemoryWrite] = []

    def hear(self, frame: Frame) -> None:
        """Take a frame of the run; what it waits for is told on, and so is what is told to it."""
        if isinstance(frame, Outcome) and frame.problem is not None:
            self.problem = frame.problem
        if isinstance(frame, Progress) and isinstance(frame.data, dict) and "event" in frame.data:
            self._tell(frame.data)
        if not isinstance(frame, Committed):
            return
        if frame.type in _TOLD:
            self._tell({"agent": self._agent, "thread": frame.thread, "run": frame.subject, "event": frame.data})
        match codec.decode_event(frame.data):
            case ToolReturned(writes=writes):
                self.writes += [write for write in writes if write.scope != "mode"]  # which is its own
            case RunFinished(text=text, usage=usage, cost=cost):
                self.text, self.usage, self.cost, self.problem = text, usage, cost, None
            case RunFailed(problem=problem, usage=usage, cost=cost):
                self.problem, self.usage, self.cost = problem, usage, cost
            case _:
                pass

    def outcome(self, effect: CallTool, instead: str | None, writes: tuple[MemoryWrite, ...]) -> Event:
        """Make what the call comes to."""
        took: dict[str, Any] = {"usage": self.usage, "cost": self.cost}
        if self.problem is not None and instead is None:
            why = f"agent {self._agent!r} came to nothing: {self.problem.message}"
            return msgspec.structs.replace(failed(effect, why), **took)
        content = kept(self.text if instead is None else instead)
        return ToolReturned(effect.id, effect.called.call.id, content, writes, **took)


def _asking(effect: CallTool, site: Site, delegation: Delegation, about: Delegating) -> Command:
    thread = child_thread(site.tenant, site.thread, effect.id)
    data = RunAgent(
        agent=delegation.agent,
        text=delegation.message,
        context=effect.context,
        approvals=effect.approvals,
        parent=Parent(site.thread, effect.entity, effect.id, delegation.depth + 1, *_root(effect)),
    )
    if about.memory == "shared":
        memory = effect.memory
        shared = {"resource": memory.resource, "working": memory.working, "notes": effect.notes}
        data = msgspec.structs.replace(data, messages=effect.messages[memory.first :], **shared)
    return _command(child_run(thread), site.tenant, thread, "run", data, effect.traceparent)


def _root(effect: CallTool) -> tuple[str, str]:
    """Name the thread and run that the call's own run is for; empty where nobody is above it."""
    return ("", "") if effect.parent is None else effect.parent.first


def _command(identity: str, tenant: str, thread: str, verb: str, data: RunAgent | AbortRun, trace: str) -> Command:
    return Command(
        id=identity, tenant=tenant, kind="agent", thread=thread, verb=verb, data=data, source="agent", traceparent=trace
    )
