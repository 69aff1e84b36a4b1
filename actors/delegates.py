"""Tools that are other agents: asked in a thread of their own, or handed the thread.

Hooks around a delegated run see what it is asked and what it comes to. They are called where the run is asked for, and
again where a crash leaves it open whether they were: what the run was first asked with counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from actors.request_context import RequestContext
from actors.tools import Approval, Tool, check_name
from schemas.messages import Usage
from schemas.runs import Problem

SharedMemory = Literal["isolated", "shared"]


@dataclass(frozen=True, slots=True)
class Delegation:
    """What another agent is about to be asked."""

    agent: str
    message: str
    by: str
    """The agent that asks."""
    run: str
    """Of the one that asks."""
    thread: str
    """Of the one that asks."""
    depth: int
    """How many runs are above the one that asks."""
    context: RequestContext


@dataclass(frozen=True, slots=True)
class Refused:
    """What `before` returns where the other agent is not to be asked; the model reads the reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Delegated:
    """What another agent's run came to."""

    delegation: Delegation
    text: str
    """Its last words; empty where it failed."""
    problem: Problem | None
    usage: Usage
    cost: float | None
    """US dollars; None where a price is not known."""


Before = Callable[[Delegation], Any]
"""Returns another message, `Refused`, or None, which leaves it; async or not."""
After = Callable[[Delegated], Any]
"""Returns what the model is to read in place of what the run came to, or None; async or not."""


@dataclass(frozen=True, slots=True)
class Delegating:
    """How an agent is asked."""

    before: Before | None = None
    after: After | None = None
    memory: SharedMemory = "isolated"


def agent_tool(
    agent: str,
    description: str,
    *,
    name: str | None = None,
    needs_approval: Approval = False,
    before: Before | None = None,
    after: After | None = None,
    memory: SharedMemory = "isolated",
    background: bool = False,
) -> Tool:
    """Make another agent a tool: each call is a run of it, in a thread of its own.

    It is asked with a `message`; its last words are the call's result, its tokens and their cost count for the run that
    called it. What it waits for is told to whoever watches that run, and a run that is ended ends it.

    Args:
        agent: its name; it is served by the same stack.
        description: for the model.
        name: what the model calls it; the agent's name by default.
        needs_approval: as of `tool`.
        before: sees what it is asked, and may change that or refuse.
        after: sees what it came to, and may change what the model reads of it.
        memory: `isolated` sees its message and nothing else of the conversation. `shared` sees what was said, begins
            with the thread's memory and resource, and what it remembers is remembered in this thread, too.
        background: as of `tool`.

    Raises:
        DefinitionError: the name is not one that models may use.
    """
    check_name(name or agent)
    message = {"type": "string", "description": "What it is to do, with all that it must know."}
    schema = {"type": "object", "properties": {"message": message}, "required": ["message"]}
    about = Delegating(before, after, memory)
    return Tool(
        name or agent,
        description,
        "idempotent",
        schema,
        approval=needs_approval,
        place="agent",
        service=agent,
        background=background,
        delegating=about,
    )


def handoff(agent: str, description: str, *, name: str | None = None, needs_approval: Approval = False) -> Tool:
    """Make a tool that hands the thread to another agent, for good: it makes the next step and the turns after it, also
    those that are asked of the agent that handed it over.

    Args:
        agent: its name; it is served by the same stack.
        description: for the model: when to hand over.
        name: what the model calls it; `hand_over_to_<agent>` by default.
        needs_approval: as of `tool`.

    Raises:
        DefinitionError: the name is not one that models may use.
    """
    named = name or f"hand_over_to_{agent}"
    check_name(named)
    schema = {"type": "object", "properties": {"reason": {"type": "string", "description": "Why."}}}
    return Tool(named, description, "pure", schema, approval=needs_approval, place="handoff", service=agent)
