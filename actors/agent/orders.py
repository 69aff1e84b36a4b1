"""Standing orders of a thread, decided: its mode, and what somebody agrees to beforehand."""

from __future__ import annotations

from actors.agent.conversation import Conversation
from actors.agent.folding import Folding
from actors.agent.run import Pending
from actors.agent.standing import named_by
from actors.runtime.machine import Decision, Emitted
from schemas.commands import Approve, Command, RunAgent
from schemas.profiles import Profile
from schemas.runs import CommandAccepted, CommandRefused, Problem
from schemas.standing import (
    MOST_GRANTS,
    GrantTool,
    GrantWithdrawn,
    ModeChanged,
    SetMode,
    ToolGranted,
    WithdrawGrant,
)

Order = SetMode | GrantTool | WithdrawGrant


def ordered(state: Conversation, command: Command, data: Order) -> Decision:
    """Take an order on, or refuse it."""
    problem = _unfit(state, data)
    if problem is not None:
        return refused(state, command, problem)
    folding = Folding(state)
    folding.emit("thread", state.thread, CommandAccepted(command=command))
    match data:
        case SetMode(mode=mode):
            folding.emit("thread", state.thread, ModeChanged(mode=mode, by=command.source))
        case GrantTool(tool=tool):
            folding.emit("thread", state.thread, ToolGranted(tool=tool, by=command.source))
        case WithdrawGrant(tool=tool):
            folding.emit("thread", state.thread, GrantWithdrawn(tool=tool, by=command.source))
    return folding.decision()


def refused(state: Conversation, command: Command, problem: Problem) -> Decision:
    """Turn a command down."""
    return Decision([Emitted("thread", state.thread, CommandRefused(command=command, problem=problem))], [])


def nowhere(state: Conversation) -> Problem | None:
    """Say why nothing can be ordered in a thread: there is none."""
    if state.commands:
        return None
    message = f"thread {state.thread!r} does not exist: `create` it first, or run an agent in it"
    return Problem(kind="unknown_thread", message=message, field="thread")


def mode_of(folding: Folding, command: Command, profile: Profile) -> None:
    """Have an agent be in the mode that a run of it is asked for in."""
    data, state = command.data, folding.state
    if isinstance(data, RunAgent) and data.mode and data.mode != state.standing.mode_of(profile.agent):
        changed = ModeChanged(mode=data.mode, by=command.source, agent=named_by(profile))
        folding.emit("thread", state.thread, changed)


def ungrantable(state: Conversation, data: object, item: Pending) -> Problem | None:
    """Say why an agreement cannot be for all further calls: the tool's author wants each looked at."""
    if not isinstance(data, Approve) or not data.always or state.active is None:
        return None
    profile, name = state.runs[state.active].profile, item.call.name
    tools = {tool.name: tool for tool in profile.tools}
    if name in tools and tools[name].grantable:
        return _full(state, name, named_by(profile))
    message = f"always: each call of {name!r} is to be agreed to by itself: leave it out"
    return Problem(kind="invalid", message=message, field="always")


def granted(profile: Profile, item: Pending, command: Command) -> ToolGranted:
    """Agree to all further calls of a tool: of the agent that asked, and while it is what it is now."""
    agent, name = named_by(profile), item.call.name
    digest = next(tool.digest for tool in profile.tools if tool.name == name) if agent else ""
    return ToolGranted(tool=name, by=command.source, agent=agent, digest=digest)


def _unfit(state: Conversation, data: Order) -> Problem | None:
    missing = nowhere(state)
    if missing is not None:
        return missing
    grants = state.standing.grants
    match data:
        case SetMode(mode=mode):
            return _unknown_mode(state, mode)
        case GrantTool(tool=tool):
            return _full(state, tool, "")
        case WithdrawGrant(tool=tool) if tool not in grants:
            known = ", ".join(map(repr, grants)) or "none"
            message = f"{tool!r} is not granted in thread {state.thread!r} (granted: {known})"
            return Problem(kind="invalid", message=message, field="tool")
        case _:
            return None


def _full(state: Conversation, tool: str, agent: str) -> Problem | None:
    there = state.standing.granted
    if len(there) < MOST_GRANTS or any((grant.tool, grant.agent) == (tool, agent) for grant in there):
        return None
    message = f"thread {state.thread!r} has {MOST_GRANTS} grants: withdraw some, or grant a pattern"
    return Problem(kind="invalid", message=message, field="tool")


def _unknown_mode(state: Conversation, mode: str) -> Problem | None:
    """Refuse a mode that none of the agents has which ran here; before any did, nobody can tell."""
    if not state.runs:
        return None
    known = list(dict.fromkeys(one.name for run in state.runs.values() for one in run.profile.modes))
    if mode in known:
        return None
    message = f"no mode {mode!r} in thread {state.thread!r} (modes: {', '.join(known) or 'none'})"
    return Problem(kind="invalid", message=message, field="mode")
